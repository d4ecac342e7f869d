"""One file and a registration: a second model goes through settings, commands and the real evaluator."""

import json
from argparse import Namespace

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from stc_lmms.cli.main import main
from stc_lmms.config import Settings
from stc_lmms.engine.api import StreamingModel
from stc_lmms.errors import SettingsError
from stc_lmms.eval import lmms_eval
from stc_lmms.memory import registry as memories
from stc_lmms.methods.registry import METHODS
from stc_lmms.models import registry
from stc_lmms.resources import tasks_root
from stc_lmms.settings import resolve
from tests import media
from tests.eval.toy import FORGETFUL, TOY, Toy, ToyStc

BACKWARD = "ovobench_stream_mini_backward"


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Registers the toy and its forgetful sister; gives the folder of a checkpoint."""
    for model in (TOY, FORGETFUL):
        monkeypatch.setitem(registry.MODELS, model.name, model)
    monkeypatch.setattr(Toy, "loads", 0)
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.json").write_text('{"unit": "lux"}')
    return folder


def refusal(**args):
    """The one line that arguments are refused with."""
    with pytest.raises(SettingsError) as caught:
        resolve(args, {}, model=args.pop("for_model", "toy"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_registered_model_is_complete():
    taken = {name for recipe in METHODS.values() for name in recipe.fields}
    taken |= {name for memory in memories.MEMORIES for name in memories.fields(memory)}
    taken |= set(Settings.__dataclass_fields__)
    for name, model in registry.MODELS.items():
        assert registry.model(name) is registry.model(model.harness_id) is model
        assert model.path.startswith("stc_lmms.models.") and issubclass(model.load_class(), StreamingModel)
        harness = getattr(lmms_eval, model.harness_class.rpartition(".")[2])
        assert harness.registered == name and harness.__doc__.startswith(f"`--model {model.harness_id}`")
        assert resolve({}, {}, model=name).pretrained == model.pretrained
        assert not set(model.option_fields) & taken and model.own_memory not in memories.MEMORIES


def test_an_unknown_model_is_told_with_the_nearest(toy, capsys):
    listed = ", ".join(sorted(registry.MODELS))
    assert refusal(for_model="tois") == f"unknown model 'tois'; did you mean 'toy'? (valid: {listed})"
    for command in (
        ["stream", "x.mp4", "--ask", "What?"],
        ["show", "x.mp4"],
        ["bench"],
        ["methods"],
        ["compare", "--methods", "none", "--tasks", BACKWARD, "--output", "o"],
    ):
        assert main([*command, "--model", "lava_ov_stc"]) == 2
        assert "did you mean 'llava_ov'?" in capsys.readouterr().err


def test_a_model_has_options_and_defaults_of_its_own(toy):
    got = resolve({"digits": "2", "token_budget": "4"}, {}, model="toy_stc")
    assert (got.model, got.pretrained, got.fps, got.method) == ("toy", "nobody/toy", 1.0, "stc_pruner")
    assert dict(got.model_options) == {"digits": 2, "style": "bare"} and got.options["token_budget"] == 4
    assert got.built_model_options.digits == 2
    assert resolve({}, {}, model="toy").options["token_budget"] == 3
    assert json.loads(json.dumps(got.flat()))["digits"] == 2
    assert resolve(got.flat(), {}, model="toy") == got  # what the results show starts the same run again
    assert resolve({}, {}).model == "llava_ov" and resolve({}, {}).built_model_options.prompt == "chat"


def test_wrong_options_of_a_model_are_one_line(toy):
    assert refusal(digits=-1) == "digits=-1 must be 0 or more"
    assert refusal(digits="x") == "digits='x' is not a valid int"
    assert "did you mean 'polite'?" in refusal(style="polit")
    assert "did you mean 'digits'?" in refusal(digit=1)
    assert refusal(model="llava_ov") == "model=llava_ov is not the model that was chosen, toy"


def test_an_argument_of_another_model_is_named_and_ignored(toy, caplog):
    got = resolve({"prompt": "rekv", "n_local": 5, "cache_interval": 2}, {}, model="toy")
    assert set(got.model_options) == {"digits", "style"}
    assert "model toy does not use prompt; ignored" in caplog.text
    assert "memory=full does not use n_local; ignored" in caplog.text
    assert "method=stc_pruner does not use cache_interval; ignored" in caplog.text


def test_an_option_cannot_take_a_name_in_use(toy, monkeypatch):
    for path, message in (
        (
            "memory.recent.Recent",
            "model 'toy' has an option called 'recent_frames', a name in use: rename it",
        ),
        ("config.Settings", "model 'toy' has an option called 'model', a name in use: rename it"),
        (
            "methods.controls.Uniform",
            "'stc' and model 'toy' both have a field called 'token_budget': rename it",
        ),
    ):
        model = registry.Model("toy", "", TOY.path, "x", options=f"stc_lmms.{path}")
        monkeypatch.setitem(registry.MODELS, "toy", model)
        assert message in refusal()


def test_a_memory_that_is_part_of_the_model_is_the_only_one(toy):
    got = resolve({}, {}, model="forgetful")
    assert got.memory == "last_frame" and got.built_memory is None and not got.memory_options
    assert resolve(got.flat(), {}, model="forgetful") == got
    assert refusal(memory="rekv", for_model="forgetful") == (
        "memory=rekv does not fit forgetful, whose own memory, last_frame, is part of the model; "
        "leave memory out"
    )
    assert "unknown memory 'last_frame'" in refusal(memory="last_frame")


def test_the_demo_checkpoint_is_of_one_model(toy):
    assert refusal(pretrained="demo") == (
        "pretrained=demo is a checkpoint of llava_ov; for toy give a folder or a hub id"
    )


@pytest.mark.parametrize("model", ["toy", "forgetful"])
def test_the_stream_command_runs_it(toy, tmp_path, capsys, model):
    video = media.encode_video(tmp_path / "v.mp4", media.moving_square_frames(40), 4)
    args = f"pretrained={toy},digits=0,style=polite"
    assert (
        main(["stream", str(video), "--ask", "What?", "--model", model, "--model_args", args, "--json"]) == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["answer"].endswith(" lux, please") and answer["efficiency"]["frames_seen"] == 10


def test_commands_that_need_the_parts_of_llava_ov_refuse_it(toy, capsys):
    assert main(["show", "x.mp4", "--model", "toy"]) == 2
    assert "show supports llava_ov; it cannot draw frames of toy yet" in capsys.readouterr().err
    assert main(["bench", "--model", "toy_stc"]) == 2
    assert "model 'toy' has no latency card yet (valid: " in capsys.readouterr().err


def test_methods_lists_what_it_takes(toy, capsys):
    assert main(["methods", "--model", "forgetful", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    (about,) = listed["models"]
    assert about["memory"] == "last_frame" and about["defaults"]["digits"] == 1
    assert [memory["name"] for memory in listed["memories"]] == ["last_frame"]
    assert next(m for m in listed["methods"] if m["name"] == "stc_pruner")["defaults"]["token_budget"] == 3
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "--model llava_ov: " in out and "--model toy: mean brightness" in out


def test_the_evaluator_runs_it_and_resumes(toy, tmp_path):
    def run():
        return simple_evaluate(
            model=ToyStc(pretrained=str(toy), device="cpu", digits=3),
            tasks=[BACKWARD],
            task_manager=TaskManager(include_path=str(tasks_root()), include_defaults=False),
            cli_args=Namespace(output_path=str(tmp_path / "out"), process_with_media=False),
            limit=1,
            bootstrap_iters=0,
        )

    echoed = [run()["config"]["resolved_cli_args"] for _ in range(2)]
    assert echoed[0]["stc_settings"].items() >= {"model": "toy", "digits": 3, "fps": 1.0}.items()
    assert echoed[0]["stc_efficiency"]["answers"] == 2 and Toy.loads == 1
    lines = (tmp_path / "out/stc_journal/rank0.jsonl").read_text().splitlines()
    assert all(text.endswith(" lux") for text in json.loads(lines[0])["responses"])


def test_a_wrong_checkpoint_ends_the_harness_with_one_line(toy, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ToyStc(pretrained=str(tmp_path), device="cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stc-lmms: error: ") and "has no toy.json" in line
    with pytest.raises(SystemExit):
        ToyStc(pretrained=str(toy), device="cpu", jornal="off")
    assert "did you mean 'journal'?" in capsys.readouterr().err


def test_compare_loads_it_once(toy, tmp_path):
    args = ["--model", "toy_stc", "--model_args", f"pretrained={toy},device=cpu", "--limit", "1"]
    args += ["--methods", "none,stc_pruner", "--budgets", "3,9", "--tasks", BACKWARD]
    assert main(["compare", *args, "--output", str(tmp_path / "grid")]) == 0
    found = json.loads((tmp_path / "grid/compare.json").read_text())
    assert found["model"] == "toy" and Toy.loads == 1
    assert [row["name"] for row in found["rows"] if row.get("n")] == ["none", "stc_pruner_3"]
    assert next(row for row in found["rows"] if row["name"] == "stc_pruner_9")["skipped"]
