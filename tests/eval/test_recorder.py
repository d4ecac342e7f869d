"""The record of a run while it goes on: which answers the task functions find, and what is written."""

import json
from argparse import Namespace

import pytest

from stc_lmms.benchmarks.registry import find
from stc_lmms.eval.lmms_tasks import acc, process_results
from stc_lmms.eval.recorder import Recorder, current, finish, start
from stc_lmms.eval.scoring import AnsweredRound
from tests.runs import recorded

COST = {"frames_encoded": 2, "vit_ms": 8.0, "prefill_ms": 2.0, "ttft_ms": 5.0, "llm_tokens_mean": 9.0}


@pytest.fixture(autouse=True)
def closed():
    finish()
    yield
    finish()


@pytest.fixture
def row():
    return next(row for row in find("ovobench").load_rows("backward", "mini") if len(row["questions"]) == 1)


def answered(row, text="A", **about):
    return [AnsweredRound(text, **about) for _ in row["questions"]]


def test_the_record_of_a_row_is_found_by_its_text(row):
    start(Recorder("1_stc", "lmms-eval")).add("t", 0, row, answered(row, efficiency=COST), replayed=False)
    assert process_results(row, [["A"]])["vit_ms_per_frame"] == [8.0, 2]
    assert process_results(row, [["B"]])["vit_ms_per_frame"] == [0, 0], "another model's answer"
    assert process_results(row | {"video": "other"}, [["A"]])["vit_ms_per_frame"] == [0, 0]


def test_a_failure_is_in_the_scores_though_the_harness_sees_only_text(row):
    start(Recorder("1_stc", "lmms-eval")).add("t", 0, row, answered(row, "", failed="broken"), replayed=False)
    found = process_results(row, [[""]])
    assert found["n_failed"] == 1 and found["acc"]["records"][0]["failed"] == "broken"


def test_runs_in_one_process_do_not_mix(row, tmp_path):
    for number, folder in enumerate("ab"):
        args = Namespace(output_path=str(tmp_path / folder))
        run = start(Recorder(f"{number}_stc", "lmms-eval", output=tmp_path / folder, args=args))
        run.add("t", 0, row, answered(row, efficiency=COST | {"context_tokens": 1}), replayed=False)
        run.write(answers=True)
        acc([process_results(row, [["A"]])["acc"]], args)
    for folder in "ab":
        (run,) = recorded(tmp_path / folder)
        assert run["benchmarks"]["ovobench_mini"]["n"] == 1 and run["efficiency"]["frames_encoded"] == 2


def test_another_models_run_has_scores_and_a_name_that_its_results_repeat(row, tmp_path, capsys):
    ours = start(Recorder("1_stc", "lmms-eval", args=Namespace()))
    args = Namespace(output_path=str(tmp_path), model="org/other")
    acc([process_results(row, [["A"]])["acc"]], args)
    (run,) = recorded(tmp_path)
    assert run["run"] == args.stc_run and run["run"].endswith("_org_other")
    assert run["settings"] == run["efficiency"] == {} and run["benchmarks"]["ovobench_mini"]["n"] == 1
    assert current() is not ours and "backward: micro (pooled)" in capsys.readouterr().out


def test_answers_of_all_ranks_are_one_run(row, tmp_path, monkeypatch):
    first, second = (
        Recorder("1_stc", "lmms-eval", rank=rank, world_size=2, output=tmp_path) for rank in range(2)
    )
    for recorder in (first, second):
        cost = COST | {"context_tokens": 9}
        recorder.add("t", recorder.rank, row, answered(row, efficiency=cost), replayed=bool(recorder.rank))
    second.model = {"context_limit": 8}
    sent = []  # what the ranks contribute; the second one does so first
    monkeypatch.setattr("accelerate.utils.gather_object", lambda shares: sent.extend(shares) or sent)
    second.gather()
    first.gather()
    first.write(answers=True)
    second.write(answers=True)
    (run,) = recorded(tmp_path)
    assert [answer["rank"] for answer in run["answers"]] == [1, 0]
    assert (run["answered"], run["replayed"], run["beyond_context"], run["world_size"]) == (2, 1, 2, 2)
    assert json.loads((tmp_path / "stc_run_1_stc" / "run.json").read_text())["schema_version"] == 1
