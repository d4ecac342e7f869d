"""Runs of version 0.1.0, in several files, are read like those of today."""

import json

import pytest

from stc_lmms.benchmarks import ovobench
from stc_lmms.results.read import find_runs, newest_run
from tests.results.helpers import answer, question, write_old_run


def test_its_files_are_one_run(tmp_path):
    asked = [question("EPM", 1), question("ASI", 0, failed="x")]
    write_old_run(tmp_path / "old", asked, [answer(8), answer(2), {"failed": "x"}])
    (run,) = find_runs([tmp_path], pytest.fail)
    (score,) = run.scores
    assert (run.name, run.method, score.n, score.accuracy) == ("old", "stc", 2, 50.0)
    assert (run.record.answered, run.record.failures) == (2, {"x": 1})
    assert run.record.efficiency["frames_encoded"] == 10 and "cpu (x86_64)" in run.hardware
    assert len(list(run.answers())) == 3


def test_only_ranks_of_the_same_run_are_put_together(tmp_path):
    folder = tmp_path / "run"
    for rank, frames in enumerate((1, 2, 4)):  # an older run, on more ranks
        asked = [] if rank else [question("EPM", 0)]
        write_old_run(folder, asked, [answer(frames)], rank=rank, world_size=3)
    newer = {"world_size": 2, "stamp": "20260101_000001_000"}
    for rank, frames in enumerate((10, 20)):
        asked = [] if rank else [question("EPM", 1)]
        write_old_run(folder, asked, [answer(frames, kv_bytes=frames * 2**20)], rank=rank, **newer)
    (run,) = find_runs([folder], pytest.fail)
    assert (run.record.efficiency["frames_encoded"], run.record.efficiency["kv_bytes"]) == (30, 20 * 2**20)
    assert run.scores[0].accuracy == 100.0 and not run.record.notes
    (folder / "stc_efficiency_20260101_000001_000_stc_rank1.json").unlink()
    (run,) = find_runs([folder], pytest.fail)
    assert run.record.notes == ("efficiency of 1 of 2 ranks only",)
    assert newest_run(folder).record == run.record


def test_another_models_run_on_our_tasks_has_scores_only(tmp_path):
    content = {"benchmark": "ovobench", "run": None, "settings": None}
    content["summary"] = ovobench.BENCHMARK.summarise([question("EPM", 1)])
    (tmp_path / "stc_summary_ovobench.json").write_text(json.dumps(content))
    (run,) = find_runs([tmp_path], pytest.fail)
    assert (run.method, run.scores[0].accuracy, run.record.efficiency) == ("-", 100.0, {})
