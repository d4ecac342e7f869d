"""`stc-lmms compare` through the real evaluator, on the mini tasks and the tiny checkpoint."""

import json
from argparse import Namespace

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from transformers import LlavaOnevisionForConditionalGeneration

from stc_lmms.cli.main import main
from stc_lmms.eval import experiments as grid
from stc_lmms.eval.experiments import configurations
from stc_lmms.eval.lmms_eval import LlavaOvStc
from stc_lmms.methods.stc_pruner import STCPruner
from stc_lmms.resources import tasks_root
from stc_lmms.results.grid import Cell, Outcome, QuestionScore, by_question, rows, text
from stc_lmms.results.read import find_runs
from stc_lmms.results.schema import Run

BACKWARD = "ovobench_stream_mini_backward"
EFFICIENCY = {"kv_bytes": 3 * 2**20, "peak_memory_bytes": 2**30, "vit_ms_per_frame": 1.5}


@pytest.fixture(scope="module")
def compare(checkpoint):
    def run(output, methods, budgets, *more, tasks=BACKWARD):
        given = ["--model_args", f"pretrained={checkpoint},device=cpu,fps=0.1", "--output", str(output)]
        given += ["--methods", methods, "--budgets", budgets, "--tasks", tasks, "--limit", "2"]
        return main(["compare", *given, *more])

    return run


def read(folder):
    return json.loads((folder / "compare.json").read_text())


def responses(folder):
    """Answers in a run's journal, by row."""
    lines = (folder / "stc_journal" / "rank0.jsonl").read_text().splitlines()
    return {entry["doc_id"]: entry["responses"] for entry in map(json.loads, lines)}


@pytest.fixture(scope="module")
def compared(compare, tmp_path_factory):
    """A grid that ran, and how often weights were loaded."""
    loads, load = [], LlavaOnevisionForConditionalGeneration.from_pretrained
    output = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LlavaOnevisionForConditionalGeneration,
            "from_pretrained",
            lambda *args, **kwargs: loads.append(args) or load(*args, **kwargs),
        )
        code = compare(output, "none,stc,stc_cacher,dycoke", "7,9")
    return output, code, len(loads)


def test_the_grid_runs_with_weights_loaded_once(compared):
    output, code, loads = compared
    assert code == 0 and loads == 1
    found = {row["name"]: row for row in read(output)["rows"]}
    assert list(found) == ["none", "stc_7", "stc_9", "stc_cacher", "dycoke_7", "dycoke_9"]
    ran = {name: row for name, row in found.items() if "n" in row}
    assert {name: row["llm_tokens_max"] for name, row in ran.items()} == {
        "none": 36,
        "stc_7": 7,
        "stc_9": 9,
        "stc_cacher": 36,
        "dycoke_9": 36,
    }
    assert len({row["n"] for row in ran.values()}) == 1 and ran["none"]["difference"] is None
    for name in ran.keys() - {"none"}:
        about = ran[name]["difference"]
        assert about["videos"] == 2 and about["questions"] == ran[name]["n"]
        assert ran[name]["accuracy"] - ran["none"]["accuracy"] == pytest.approx(about["mean"])
    assert all(row["n_failed"] == 0 and row["vit_ms_per_frame"] > 0 for row in ran.values())
    assert ran["none"]["kv_mib"] > ran["stc_9"]["kv_mib"] > 0


def test_a_budget_that_cannot_be_met_is_skipped_with_the_nearest(compared):
    row = next(row for row in read(compared[0])["rows"] if row["name"] == "dycoke_7")
    assert row["skipped"] and "the nearest that works is 9" in row["error"]
    assert not (compared[0] / "dycoke_7").exists()


def test_shared_weights_give_the_answers_of_a_run_of_its_own(compared, checkpoint, tmp_path):
    """The third configuration on the same weights: those before it have left nothing in them."""
    lm = LlavaOvStc(pretrained=str(checkpoint), device="cpu", fps=0.1, token_budget=9)
    simple_evaluate(
        model=lm,
        tasks=[BACKWARD],
        task_manager=TaskManager(include_path=str(tasks_root()), include_defaults=False),
        cli_args=Namespace(output_path=str(tmp_path), process_with_media=False),
        limit=2,
        bootstrap_iters=0,
    )
    alone, shared = (responses(folder) for folder in (tmp_path, compared[0] / "stc_9"))
    assert alone == shared and len(alone) == 2 and any(any(answers) for answers in alone.values())


def test_every_run_can_be_reported(compared):
    folder = compared[0]
    runs = find_runs([folder], pytest.fail)
    assert {run.name for run in runs} == {"none", "stc_7", "stc_9", "stc_cacher", "dycoke_9"}
    of_grid = {row["name"]: folder / row["run"] for row in read(folder)["rows"] if "n" in row}
    assert {name: json.loads(path.read_text())["run"] for name, path in of_grid.items()} == {
        run.name: run.record.run for run in runs
    }


def test_a_finished_grid_is_resumed_without_weights(compare, compared, monkeypatch, capsys):
    output = compared[0]
    before = {row["name"]: row.get("accuracy") for row in read(output)["rows"]}
    monkeypatch.setattr(grid.SharedModel, "load", lambda *_: pytest.fail("weights were loaded"))
    assert compare(output, "none,stc", "9") == 0
    after = read(output)["rows"]
    assert {row["name"]: row["accuracy"] for row in after} == {n: before[n] for n in ("none", "stc_9")}
    assert all(row["replayed"] >= row["n"] for row in after)
    assert "answers were timed by the run that it resumed" in capsys.readouterr().out


def test_one_failing_configuration_does_not_stop_the_others(compare, tmp_path, monkeypatch, capsys):
    def broken(*args):
        raise RuntimeError("the pruner broke")

    monkeypatch.setattr(STCPruner, "compress", broken)
    assert compare(tmp_path, "stc,stc_cacher", "9") == 1
    failed, ran = read(tmp_path)["rows"]
    assert failed["error"] and not failed["skipped"] and ran["n"] > 0 and ran["difference"] is None
    said = capsys.readouterr()
    assert "the pruner broke" in said.err and f"stc_9: failed: {failed['error']}" in said.out
    assert f"1 of 2, stc_9: {failed['error']}" in said.err and "2 of 2, stc_cacher: done" in said.err


def test_an_argument_of_all_may_need_a_varied_one(tmp_path):
    common = "pretrained=demo,device=cpu,fps=0.1,refresh=adaptive"
    given = ["--model_args", common, "--tasks", BACKWARD, "--limit", "1", "--output", str(tmp_path)]
    varied = ["--vary", "cut_similarity=0.8,0.95", "--methods", "none,stc"]
    assert main(["compare", *given, *varied]) == 0
    found = read(tmp_path)["rows"]
    assert [(row["budget"], row["varied"]) for row in found] == [
        (None, {}),
        (12, {"cut_similarity": "0.8"}),  # the budget is the demo checkpoint's own
        (12, {"cut_similarity": "0.95"}),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--methods", "none,stcc"], "unknown method 'stcc'; did you mean 'stc'?"),
        (["--methods", ","], "--methods is empty"),
        (["--tasks", "ovobench_mini"], "unknown task 'ovobench_mini'; did you mean"),
        (["--budgets", "64,x"], "--budgets: 'x' is not a whole number above 0"),
        (["--budgets", "0"], "--budgets: '0' is not a whole number above 0"),
        (["--seed", "-1"], "--seed -1 must be 0 or more"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
        (["--model_args", "token_budget=9"], "give token_budget with --budgets"),
        (["--model_args", "method=stc"], "give method with --methods"),
        (["--model_args", "pretrained=/no/such/folder"], "is not a local folder"),
        (["--model_args", "fsp=1"], "did you mean 'fps'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(tmp_path, capsys, args, message):
    given = ["--methods", "none", "--tasks", BACKWARD, "--output", str(tmp_path / "out")]
    assert main(["compare", *given, "--model_args", "pretrained=demo,device=cpu", *args]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert line.startswith("stc-lmms: error: ") and message in line


def test_several_processes_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare", "--methods", "none", "--tasks", BACKWARD, "--output", str(tmp_path)]) == 2
    assert "compare runs in one process" in capsys.readouterr().err


def test_configurations():
    found = configurations(["none", "stc", "stc", "uniform_frames"], [9, 12, 9])
    assert [cell.name for cell in found] == [
        "none",
        "stc_9",
        "stc_12",
        "uniform_frames_9",
        "uniform_frames_12",
    ]
    assert found[1].model_args({"fps": 1}) == {"fps": 1, "method": "stc", "token_budget": 9}
    assert "token_budget" not in found[0].model_args({})


def test_the_table(capsys):
    def outcome(method, budget, values):
        asked = {
            ("task", f"v{i // 2}", str(i)): QuestionScore(f"v{i // 2}", "OCR" if i < 3 else "ATR", value)
            for i, value in enumerate(values)
        }
        run = Run(run=f"1_{method}", harness="lmms-eval", efficiency=EFFICIENCY)
        return Outcome(Cell(method, budget), run=run, scores=asked)

    outcomes = [
        outcome("none", None, [1, 0, 0, 0]),
        outcome("stc", 9, [1, 1, 0, 1]),
        Outcome(Cell("tome", 9), "token_budget=9 cannot be met", skipped=True),
    ]
    found = rows(outcomes)
    assert [row.get("accuracy") for row in found] == [25, 75, None]
    assert found[0]["subtasks"] == {"task": {"ATR": (1, 0), "OCR": (3, 100 / 3)}}
    assert found[1]["subtasks"]["task"]["ATR"] == (1, 100)
    assert found[0]["interval"] == [0, 50] and found[1]["interval"] == [50, 100]  # of two videos
    each = by_question(outcomes)
    assert each["questions"][3] == ["task", "v1", "3", "ATR"]
    assert each["scores"] == {"none": [1, 0, 0, 0], "stc_9": [1, 1, 0, 1]}
    shown = text(found, on_gpu=False)
    (line,) = [x for x in shown.splitlines() if x.startswith("stc ")]
    assert line.split()[:8] == ["stc", "9", "4", "0", "75.00", "+50.00", "+50.00", "to"]
    assert "tome_9: skipped: token_budget=9 cannot be met" in shown and "of the process so far" in shown
    assert "of the device" in text(found, on_gpu=True)
