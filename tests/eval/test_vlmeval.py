"""`stc-vlmeval` without VLMEvalKit: names, configuration files, and that nothing of it is imported."""

import subprocess
import sys
from argparse import Namespace
from importlib.util import find_spec

import pytest
import yaml

from stc_lmms.benchmarks.registry import find
from stc_lmms.errors import SettingsError
from stc_lmms.eval.dialogue import GENERATION, RowDialogue
from stc_lmms.eval.scoring import AnsweredRound
from stc_lmms.eval.session import Clip
from stc_lmms.eval.vlmeval import command as vlmeval
from stc_lmms.methods.registry import METHODS
from stc_lmms.models import registry
from stc_lmms.resources import tasks_root
from tests.conftest import QUIRKS


def test_every_model_has_a_name_with_every_method():
    found = vlmeval.model_presets()
    assert found["llava_ov_stc"] == vlmeval.ModelPreset("llava_ov", {})
    assert found["llava_ov_stc_demo"].args == {"pretrained": "demo"}
    assert found["llava_ov_stc_demo_none"].args == {"pretrained": "demo", "method": "none"}
    assert found["dispider_stc_stc_cacher"] == vlmeval.ModelPreset("dispider", {"method": "stc_cacher"})
    demos = sum(model.demo for model in registry.MODELS.values())
    assert len(found) == (len(registry.MODELS) + demos) * (1 + len(METHODS))


def options(**given):
    return Namespace(**{"config": None, "model": None, "data": None} | given)


def test_models_and_datasets_come_from_the_command_line_or_a_file(tmp_path):
    assert vlmeval.requested(options(model=["a"], data=["b", "c"])) == ({"a": {}}, {"b": {}, "c": {}})
    path = tmp_path / "c.json"
    path.write_text('{"model": {"m": {"class": "LlavaOvStc", "method": "none"}}, "data": {"d": {}}}')
    models, data = vlmeval.requested(options(config=path))
    assert data == {"d": {}}
    classes = {"LlavaOvStc": "llava_ov"}
    assert vlmeval.find_preset("m", models["m"], classes) == vlmeval.ModelPreset(
        "llava_ov", {"method": "none"}
    )
    assert vlmeval.find_preset("m", {"class": "Qwen2VLChat"}, classes) is None
    demo = vlmeval.find_preset("llava_ov_stc_demo", {"fps": 1}, classes)
    assert demo == vlmeval.ModelPreset("llava_ov", {"pretrained": "demo", "fps": 1})
    assert vlmeval.find_preset("nobody", {}, classes) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": {}}', '{"model": [1], "data": {}}', '{"model": 3']
)
def test_a_broken_file_is_told_in_one_line(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(SettingsError, match=r"c\.json") as caught:
        vlmeval.requested(options(config=tmp_path / "c.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"model": ["a"]}, {"data": ["a"]}, {"config": "x", "data": ["a"]}])
def test_half_a_command_line_is_refused(given):
    with pytest.raises(SettingsError, match="--config"):
        vlmeval.requested(options(**given))


@pytest.mark.skipif(find_spec("vlmeval") is not None, reason="VLMEvalKit is installed")
def test_without_vlmevalkit_the_command_says_what_to_install(capsys):
    assert vlmeval.main() == 2
    assert capsys.readouterr().err == (
        "stc-lmms: error: VLMEvalKit is not installed: pip install 'stc-lmms[vlmeval]'\n"
    )


@pytest.mark.slow
def test_importing_the_package_never_imports_vlmeval():
    """Nor touches certificate checks, which vlmeval turns off."""
    code = (
        "import ssl, sys; before = ssl._create_default_https_context;"
        "import stc_lmms.cli.main, stc_lmms.plugin, stc_lmms.eval.vlmeval.command, stc_lmms.eval.lmms_eval;"
        "assert 'vlmeval' not in sys.modules;"
        "assert ssl._create_default_https_context is before is ssl.create_default_context"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_row_is_asked_as_lmms_eval_asks_it():
    (row,) = find("streamingbench").load_rows("proactive", "mini")
    job = RowDialogue(row, 0)
    first, second = row["questions"]
    asked = []
    while job.next is not None:
        asked.append(job.next)
        job.respond(AnsweredRound("Yes." if job.next.clip.end_s == 5 else "no"))
    assert [a.clip.end_s for a in asked[:4]] == [3, 4, 5, 5]  # polls until the yes, then the follow-up
    assert asked[3].prompt == first["follow_up"] != asked[2].prompt
    assert asked[4].clip == Clip(row["path"], second["start_s"], second["start_s"] + 1)
    assert [each.text for each in job.of_question(first["qid"])] == ["no", "no", "Yes.", "Yes."]
    assert job.of_question(second["qid"]) == job.answered[4:] and job.of_question("nobody") == []


def test_chunks_have_the_questions_of_the_stream(tmp_path, monkeypatch):
    monkeypatch.setenv("STC_OVOBENCH_ROOT", str(tmp_path))
    (tmp_path / "chunked_videos").mkdir()
    (tmp_path / "ovo_bench_new.json").write_text((QUIRKS / "ovo_bench_mini.json").read_text())
    for part in ("backward", "forward"):
        stream = {
            q["qid"]: q["prompt"]
            for row in find("ovobench").load_rows(part, "mini")
            for q in row["questions"]
        }
        name = next(iter(stream)).replace(":", "_") + ".mp4"
        (tmp_path / "chunked_videos" / name).touch()
        rows = find("ovobench").load_rows(part, "chunks")
        assert {row["questions"][0]["qid"]: row["questions"][0]["prompt"] for row in rows} == stream
        assert all(len(row["questions"]) == 1 and row["questions"][0]["end_s"] == -1 for row in rows)
        assert str(tmp_path / "chunked_videos" / name) in {row["path"] for row in rows}


def test_the_datasets_answer_at_the_length_of_the_tasks():
    """The YAML of the tasks has the number, too."""
    for folder in ("ovobench_stream", "ovobench_stream_mini", "streamingbench", "streamingbench_mini"):
        text = (tasks_root() / folder / "_common_yaml").read_text().replace("!function ", "")
        kwargs = yaml.safe_load(text)["generation_kwargs"]
        assert kwargs["max_new_tokens"] == GENERATION.max_new_tokens and "until" not in kwargs
