"""Merged shards are one unsharded run, bit for bit; a thousand of them are merged in seconds."""

import resource
import time

import pytest

from stc_lmms.cli.main import main
from stc_lmms.results.read import find_runs
from stc_lmms.sweep import spec
from stc_lmms.sweep.merge import merge
from stc_lmms.sweep.status import status, unfinished
from tests.sweep.helpers import TASK, pretend_all_done, pretend_done, unsharded


def test_merged_metrics_are_those_of_one_run(sweep, capsys):
    found = sweep(31, shards=4)
    pretend_all_done(found)
    (merged,) = merge(found)
    assert capsys.readouterr().out == ""
    whole = unsharded(TASK)
    for leaf, values in whole.items():
        assert {k: v for k, v in merged.results[leaf].items() if k in values} == values, leaf
    accs = [values["acc,none"] for values in whole.values()]
    assert merged.results[TASK]["acc,none"] == sum(accs) / 3 and not merged.missing
    assert any(0 < acc < 100 for acc in accs) and sum(v["n_failed,none"] for v in whole.values()) > 0

    (run,) = find_runs([found.root / "merged"], pytest.fail)
    (score,) = run.scores
    assert run.label == "plain" and score.benchmark == TASK and score.n == 63
    assert score.accuracy == pytest.approx(merged.results[TASK]["acc,none"])
    assert run.record.world_size == 4 and len(list(run.answers())) == 63
    assert run.record.efficiency["answers"] == run.record.answered == 63 - run.record.failed


def test_merging_again_replaces_the_last_merge(sweep):
    found = sweep(4, shards=2)
    pretend_all_done(found)
    for _ in range(2):
        list(merge(found))
    folder = found.root / "merged" / "plain"
    assert len(list(folder.glob("*_results.json"))) == 1 and len(list(folder.glob("*/run.json"))) == 1


def test_what_is_not_done_is_named_and_not_merged(sweep, capsys):
    found = sweep(6, shards=3)
    pretend_all_done(found)
    found.job(1).set_status(**found.job(1).status() | {"state": "failed"})
    (merged,) = merge(found)
    assert merged.missing == {TASK: ["plain/ovobench_stream/001"]} and not merged.results
    assert not (found.root / "merged").exists()
    assert main(["sweep", "merge", str(found.root)]) == 1
    assert "plain on ovobench_stream: 1 jobs are not done" in capsys.readouterr().out


def of_backward(job):
    (path,) = job.out.glob("*/*_samples_*backward.jsonl")
    return path


def test_a_lost_result_is_told_and_the_last_merge_stays(sweep, capsys):
    found = sweep(6, shards=2)
    pretend_all_done(found)
    list(merge(found))
    path = of_backward(found.job(0))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    (merged,) = merge(found)
    assert merged.missing == {TASK: ["plain/ovobench_stream/000"]}
    assert len(list((found.root / "merged" / "plain").glob("*_results.json"))) == 1
    assert [job.index for job in unfinished(found)] == [0], "resume runs it again"
    pretend_done(found.job(0))
    for path in found.job(1).out.glob("*/run.json"):
        path.unlink()
    assert [job.index for job in unfinished(found)] == [1]


@pytest.mark.parametrize("broken", ["{}\n", "[\n", None])
def test_a_broken_recipe_does_not_keep_others_from_merging(sweep, checkpoint, capsys, broken):
    args = {"pretrained": str(checkpoint), "token_budget": 9}
    found = sweep(6, shards=2, recipes=["plain.yaml", "llava_ov_stc"], tasks=[TASK], model_args=args)
    pretend_all_done(found)
    path = of_backward(found.job(0))
    rest = path.read_text().splitlines(keepends=True)[1:]
    path.write_text("".join([rest[0] if broken is None else broken, *rest]))
    assert main(["sweep", "merge", str(found.root)]) == 1
    out = capsys.readouterr().out
    assert f"plain is not merged: job plain/ovobench_stream/000: {path} " in out and "delete that file" in out
    assert "merged 1 recipes" in out and f"stc-lmms sweep resume {found.root}" in out
    assert "| llava_ov_stc |" in (found.root / "leaderboard" / "leaderboard.md").read_text()


def test_the_command_rebuilds_the_leaderboard(sweep, capsys):
    found = sweep(3, shards=2)
    pretend_all_done(found)
    assert main(["sweep", "merge", str(found.root)]) == 0
    assert "merged 1 recipes" in capsys.readouterr().out
    assert "| plain | none | ovobench_stream |" in (found.root / "leaderboard" / "leaderboard.md").read_text()


@pytest.mark.slow
def test_a_thousand_shards(sweep, sweep_file):
    """Plan, status and merge each take under 10 s of processor time and hold next to nothing."""
    found = sweep(1000, shards=1000)
    assert len(found.plan["jobs"]) == 1000
    pretend_all_done(found)
    steps = {
        "plan": lambda: spec.make_plan(spec.read(sweep_file(shards=1000))),
        "status": lambda: status(found),
        "merge": lambda: list(merge(found)),
    }
    results = {}
    for name, step in steps.items():
        start, before = time.process_time(), peak_mib()
        results[name] = step()
        spent, grown = time.process_time() - start, peak_mib() - before
        print(f"{name}: {spent:.1f} s, {grown:.0f} MiB more")
        assert spent < 10, f"{name} took {spent:.1f} s"
        assert grown < 40, f"{name} needed {grown:.0f} MiB"
    assert results["plan"] == found.plan and results["status"].count("done") == 1000
    for leaf, values in unsharded(TASK).items():
        assert values.items() <= results["merge"][0].results[leaf].items()


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
