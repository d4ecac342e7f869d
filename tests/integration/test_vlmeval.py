"""The real VLMEvalKit with our models and benchmarks in it: names, files, failures, messages.

`make test` runs this in an environment that has VLMEvalKit, and where it must not be skipped.
"""

import json
import os
import random
import shutil
import ssl
import sys
from argparse import Namespace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("vlmeval") is None and not os.environ.get("STC_TEST_REQUIRE_VLMEVAL"):
    pytest.skip("VLMEvalKit is not installed; make test has an environment for it", allow_module_level=True)

from stc_lmms.eval.vlmeval import command as vlmeval
from stc_lmms.models import registry
from stc_lmms.video.decode import open_video
from tests.conftest import QUIRKS
from tests.eval.toy import TOY, Toy
from tests.integration.vlmeval_tables import summaries, text_table
from tests.media import encode_video, moving_square_frames
from tests.models import qwen_checkpoint
from training.demo.dispider_checkpoint import build_dispider
from training.demo.streamforest_checkpoint import build_streamforest

vlmeval.import_vlmeval()
from vlmeval.config import supported_VLM  # noqa: E402
from vlmeval.vlm.base import BaseModel  # noqa: E402

from stc_lmms.eval.vlmeval import data as vlmeval_data  # noqa: E402
from stc_lmms.eval.vlmeval.data import CLASSES, assign_to_ranks  # noqa: E402
from stc_lmms.eval.vlmeval.model import StcVLM  # noqa: E402
from tests.runs import recorded  # noqa: E402


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A model without a network; its checkpoint. `toy.opened`: the videos that were opened, in order."""
    monkeypatch.setitem(registry.MODELS, "toy", TOY)
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.json").write_text('{"unit": "lux"}')
    opened = []

    def opener(path, **how):
        opened.append(path)
        return open_video(path, **how)

    monkeypatch.setattr(StcVLM, "opener", staticmethod(opener))
    monkeypatch.setattr(Toy, "loads", 0)
    return Namespace(
        opened=opened,
        folder=folder,
        make=lambda **args: StcVLM("toy", tmp_path / f"journal{len(opened)}", pretrained=str(folder), **args),
    )


def test_questions_in_any_order_get_the_same_answers_from_one_stream(toy):
    dataset = CLASSES["OVOBench"]("OVOBench_mini_realtime")
    messages = [dataset.build_prompt(index, video_llm=True) for index in range(len(dataset.data))]
    answers = [toy.make().generate(messages[0])]
    model = toy.make()
    toy.opened.clear()
    answers = [model.generate(message) for message in messages]
    assert len(toy.opened) == len(set(toy.opened)) == len({message[0]["value"] for message in messages})
    assert len(set(answers)) > len(toy.opened)  # the brightness at the time of the question
    order = list(range(len(messages)))
    random.Random(0).shuffle(order)
    shuffled = toy.make()
    toy.opened.clear()
    assert {i: shuffled.generate(messages[i]) for i in order} == dict(enumerate(answers))
    assert len(toy.opened) == len(set(toy.opened))


def test_datasets_of_vlmevalkit_go_on_with_the_stream(toy, tmp_path):
    paths = [encode_video(tmp_path / f"{name}.mp4", moving_square_frames(30), 5) for name in "ab"]
    text = {"type": "text", "value": "?"}
    first, second = ([{"type": "video", "value": str(path)}, text] for path in paths)
    model = toy.make()
    answer = model.generate(first, "Video-MME")
    assert answer.endswith(" lux")
    assert model.generate([*first, {"type": "text", "value": "Really?"}], "Video-MME") == answer
    assert toy.opened == [str(paths[0])]
    model.generate(second, "Video-MME")
    missing = [{"type": "video", "value": str(tmp_path / "none.mp4")}, text]
    assert model.generate(missing, "Video-MME").startswith("Failed to obtain answer via API. ")
    assert "one video per question" in model.generate([*first, second[0]], "Video-MME")
    assert "one video per question" in model.generate("only text", "Video-MME")


def test_a_dataset_sets_the_frame_rate_and_gives_it_back(toy):
    model = toy.make(fps=2.0)
    assert model.fps == 2 and model.nframe is None
    model.fps = 0.5  # as VLMEvalKit does
    assert model.fps == model.settings.fps == 0.5
    model.fps = None
    assert model.fps == 2


def write_config(folder, toy, data, **args):
    model = {"class": "ToyStc", "pretrained": str(toy.folder), "device": "cpu"} | args
    path = folder / "config.json"
    path.write_text(json.dumps({"model": {"toy": model}, "data": data}))
    return path


def test_a_configuration_file_works(toy, run, tmp_path):
    slow = {"class": "StreamingBench", "dataset": "StreamingBench_mini", "fps": 0.25}
    config = write_config(tmp_path, toy, {"slow": slow, "StreamingBench_mini_proactive": {}}, digits=2)
    assert run("--config", config, "--work-dir", "out") == 0
    ranks = recorded(tmp_path / "out/toy")
    assert sorted(rank["settings"]["fps"] for rank in ranks) == [0.25, TOY.defaults["fps"]]
    assert all(rank["settings"]["digits"] == 2 and rank["failed"] == 0 for rank in ranks)
    assert len(text_table(tmp_path / "out/toy/toy_slow.xlsx")) == 25
    assert Toy.loads == 1


def test_inference_and_evaluation_may_be_apart(toy, run, tmp_path):
    config = write_config(tmp_path, toy, {"StreamingBench_mini_proactive": {}})
    assert run("--config", config, "--work-dir", "out", "--mode", "infer") == 0
    assert not summaries(tmp_path / "out/toy")
    assert run("--config", config, "--work-dir", "out", "--mode", "eval") == 0
    assert summaries(tmp_path / "out/toy")["streamingbench_mini"]["n"] == 2 and Toy.loads == 1


def test_old_tables_are_not_taken_for_the_answers_of_other_settings(toy, run, tmp_path, capsys):
    data = {"StreamingBench_mini_proactive": {}}
    assert run("--config", write_config(tmp_path, toy, data), "--work-dir", "out") == 0
    assert run("--config", write_config(tmp_path, toy, data, digits=3), "--work-dir", "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "toy_StreamingBench_mini_proactive.xlsx has answers that are not in" in error
    assert "delete the table, or give another --work-dir" in error


class Echo(BaseModel):
    """A model of VLMEvalKit's own that takes video files."""

    VIDEO_LLM = True

    def generate_inner(self, message, dataset=None):
        return "A"


@pytest.fixture
def chunks(tmp_path, monkeypatch):
    """OVO-Bench's chunk files for the questions of the mini set; all but one are there."""
    root = tmp_path / "ovobench"
    (root / "chunked_videos").mkdir(parents=True)
    (root / "ovo_bench_new.json").write_text((QUIRKS / "ovo_bench_mini.json").read_text())
    video = encode_video(tmp_path / "chunk.mp4", moving_square_frames(20), 5)
    for qid in CLASSES["OVOBench"]("OVOBench_mini_backward").data["qid"]:
        (root / "chunked_videos" / f"{qid.replace(':', '_')}.mp4").symlink_to(video)
    absent = sorted((root / "chunked_videos").iterdir())[0]
    absent.unlink()
    monkeypatch.setenv("STC_OVOBENCH_ROOT", str(root))
    return absent, video


def test_a_failed_question_is_counted_and_tried_again(toy, run, chunks, tmp_path):
    absent, video = chunks
    config = write_config(tmp_path, toy, {"OVOBench_backward": {}})
    for failed in (1, 0):
        assert run("--config", config, "--work-dir", "out") == 0
        ((benchmark, summary),) = recorded(tmp_path / "out/toy")[-1]["benchmarks"].items()
        assert (benchmark, summary["n"], summary["n_failed"]) == ("ovobench_chunks", 10, failed)
        if failed:
            marked = text_table(tmp_path / "out/toy/toy_OVOBench_backward.xlsx")["prediction"]
            assert sum(text.startswith("Failed to obtain answer via API. ") for text in marked) == 1
            toy.opened.clear()
            absent.symlink_to(video)
    assert toy.opened == [str(absent)]


@pytest.fixture
def without(tmp_path, monkeypatch):
    """`without(dataset, count)`: takes away the files of a mini set's first videos; their names."""
    root = tmp_path / "mini"
    shutil.copytree(QUIRKS, root)
    monkeypatch.setenv("STC_MINI", str(root))

    def without(dataset, count):
        paths = list(dict.fromkeys(row["path"] for row in CLASSES["StreamingBench"](dataset).rows))[:count]
        for path in paths:
            Path(path).unlink()
        return {Path(path).name for path in paths}

    return without


def test_a_table_is_continued_by_another_number_of_processes(toy, run, without, tmp_path, monkeypatch):
    data = "StreamingBench_mini"
    config, absent = write_config(tmp_path, toy, {data: {}}), without(data, 1)
    with monkeypatch.context() as patch:
        patch.setattr(vlmeval_data, "get_rank_and_world_size", lambda: (0, 2))
        order = list(CLASSES["StreamingBench"](data).data["qid"])
        assert run("--config", config, "--work-dir", "out") == 0
    assert order != list(CLASSES["StreamingBench"](data).data["qid"])
    assert run("--config", config, "--work-dir", "out") == 0
    table = text_table(tmp_path / f"out/toy/toy_{data}.xlsx")
    scored = text_table(tmp_path / f"out/toy/toy_{data}_score.xlsx")
    failed = table["prediction"].str.startswith("Failed to obtain answer via API. ")
    assert list(failed) == [Path(video).name in absent for video in table["video"]] and failed.any()
    assert list(table["prediction"][~failed]) == list(scored["prediction"][~failed])


def test_a_dataset_that_fails_altogether_does_not_stop_the_others(toy, run, without, tmp_path, capsys):
    lost, other = "StreamingBench_mini_proactive", "StreamingBench_mini_contextual"
    without(lost, None)
    config = write_config(tmp_path, toy, {lost: {}, other: {}})
    assert run("--config", config, "--work-dir", "out") == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stc-lmms: error: toy has no scores on {lost}; ")
    assert "acc" in json.loads((tmp_path / "out/toy/status.json").read_text())["datasets"][other]["metrics"]


def test_models_of_vlmevalkit_can_do_the_chunk_files(run, chunks, tmp_path, monkeypatch, capsys):
    absent, video = chunks
    absent.symlink_to(video)
    monkeypatch.setitem(supported_VLM, "Echo", partial(Echo))
    assert run("--model", "Echo", "--data", "OVOBench_backward", "--work-dir", "out") == 0
    summary = summaries(tmp_path / "out/Echo")["ovobench_chunks"]
    gold = list(CLASSES["OVOBench"]("OVOBench_mini_backward").data["answer"])
    right = sum(t["correct"]["official"] for p in summary["parts"].values() for t in p["tasks"].values())
    assert summary["n"] == 10 and right == gold.count("A") > 0
    assert run("--model", "Echo", "--data", "OVOBench_mini", "--work-dir", "out") == 2
    assert "OVOBench_mini needs a streaming model" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("llava_ov_stc_dem", "OVOBench_mini", "unknown model 'llava_ov_stc_dem'; the nearest are"),
        ("llava_ov_stc_demo", "OVOBench_min", "unknown dataset 'OVOBench_min'; the nearest are"),
        ("llava_ov_stc", "OVOBench_stream_0.5fps", "STC_OVOBENCH_ROOT is not set"),
        ("llava_ov_stc", "OVOBench", "STC_OVOBENCH_ROOT is not set"),
        ("llava_ov_stc", "StreamingBench_sqa_0.5fps", "STC_STREAMINGBENCH_ROOT is not set"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_any_weight(run, no_model, capsys, model, data, message):
    assert run("--model", model, "--data", data) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("stc-lmms: error: ") and message in line


@pytest.mark.parametrize(
    ("args", "data", "message"),
    [
        ({"digit": 1}, {"OVOBench_mini": {}}, "unknown model argument 'digit'; did you mean 'digits'?"),
        ({"pretrained": "/nowhere"}, {"OVOBench_mini": {}}, "/nowhere"),
        ({}, {"x": {"class": "OVOBench", "dataset": "OVO", "fps": 1}}, "unknown dataset 'OVO'"),
        ({}, {"OVOBench_mini": {"class": "OVOBench", "nframe": 8}}, "nframe=8"),
        ({}, {"OVOBench_mini": {"class": "OVObench", "fps": 1}}, "did you mean 'OVOBench'?"),
        ({}, {"OVOBench_mini": {"class": "OVOBench"}}, "dataset 'OVOBench_mini': fps=0 must be above 0"),
        ({}, {"OVOBench_mini": {"class": "OVOBench", "fsp": 1}}, "unknown key 'fsp'; did you mean 'fps'?"),
        ({}, {"OVOBench_mini": {"fps": 1}}, "dataset 'OVOBench_mini': its class is missing"),
        ({"class": "LlavaOVStc"}, {"OVOBench_mini": {}}, "did you mean 'LlavaOvStc'?"),
    ],
)
def test_so_is_what_is_wrong_in_a_file(toy, run, tmp_path, capsys, args, data, message):
    assert run("--config", write_config(tmp_path, toy, data, **args)) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("stc-lmms: error: ") and message in line and Toy.loads == 0


def test_certificates_are_checked_again(run):
    assert run("--model", "nobody", "--data", "nothing") == 2
    assert "vlmeval" in sys.modules and ssl._create_default_https_context is ssl.create_default_context


def test_scores_that_are_missing_in_the_end_are_told(toy, run, tmp_path, monkeypatch, capsys):
    """VLMEvalKit logs an exception and exits with 0."""
    monkeypatch.setattr(CLASSES["StreamingBench"], "evaluate", lambda *a, **k: 1 / 0)
    config = write_config(tmp_path, toy, {"StreamingBench_mini_proactive": {}})
    assert run("--config", config, "--work-dir", "out") == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("stc-lmms: error: toy has no scores on StreamingBench_mini_proactive")


def test_questions_are_dealt_by_video():
    groups = [["a"] * 5, ["b"] * 2, ["c"] * 4, ["d"]]
    assert assign_to_ranks(groups, 1) == [item for group in groups for item in group]
    for ranks in (2, 3, 4, 20):
        dealt = assign_to_ranks(groups, ranks)
        assert sorted(dealt) == sorted(assign_to_ranks(groups, 1))
        hands = [set(dealt[rank::ranks]) for rank in range(ranks)]
        shared = sum(sum(name in hand for hand in hands) - 1 for name in "abcd")
        assert shared == 0 if ranks == 2 else shared < ranks


@pytest.mark.slow
def test_every_model_runs(run, tmp_path):
    small = qwen_checkpoint.SMALL | {"token_budget": 6}
    built = {
        "StreamforestStc": (build_streamforest, {}),
        "DispiderStc": (build_dispider, {"frames_per_clip": 4}),
        "LiveccStc": (partial(qwen_checkpoint.build_checkpoint, family="qwen2_vl"), small),
        "Qwen25VlStc": (partial(qwen_checkpoint.build_checkpoint, family="qwen2_5_vl"), small),
    }
    models = {
        name: {"class": name, "pretrained": str(build(tmp_path / name)), "device": "cpu"} | args
        for name, (build, args) in built.items()
    }
    config = {"model": models, "data": {"StreamingBench_mini_proactive": {}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run("--config", tmp_path / "config.json", "--work-dir", "out") == 0
    for name in models:
        found = summaries(tmp_path / "out" / name)["streamingbench_mini"]
        assert (found["n"], found["n_failed"]) == (2, 0)
