"""Merges the shards of a recipe into the results of one unsharded run, bit for bit.

The samples of the shards (see `samples.py`) are put into the order of an unsharded run and passed to the
aggregations named in the task's YAML, the same functions that lmms-eval calls.
"""

import contextlib
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stc_lmms.errors import StcError
from stc_lmms.eval.recorder import Recorder, finish, new_run, start
from stc_lmms.results.read import FoundRun, newest_run
from stc_lmms.results.schema import ANSWERS, Run
from stc_lmms.results.totals import notes, total
from stc_lmms.results.write import write_run
from stc_lmms.sweep import samples, tasks
from stc_lmms.sweep.folder import Sweep, SweepJob, write_json
from stc_lmms.sweep.samples import is_open

_AGAIN = "delete that file and resume: the journal has its answers"


@dataclass(frozen=True)
class Merged:
    """The merge of one recipe."""

    recipe: str
    results: dict[str, dict[str, Any]]  # metrics by finished task and group, in lmms-eval's form
    missing: dict[str, list[str]]  # by other task: its jobs that are not done, or whose output is incomplete
    error: str = ""  # why finished shards could not be merged; the last merge stays


def merge(sweep: Sweep) -> Iterator[Merged]:
    """Merge each recipe into one run on all its finished tasks; an error in one does not stop the others."""
    recipes: dict[str, dict[str, list[SweepJob]]] = {}
    for job in sweep.jobs:
        recipes.setdefault(job.recipe, {}).setdefault(job.task, []).append(job)
    for recipe, by_task in recipes.items():
        unfinished = {task: [job.name for job in jobs if is_open(job)] for task, jobs in by_task.items()}
        missing = {task: names for task, names in unfinished.items() if names}
        done = {task: jobs for task, jobs in by_task.items() if task not in missing}
        try:
            yield Merged(recipe, _merge(sweep, recipe, done) if done else {}, missing)
        except StcError as error:
            yield Merged(recipe, {}, missing, str(error))


def _merge(sweep: Sweep, recipe: str, jobs: dict[str, list[SweepJob]]) -> dict[str, dict[str, Any]]:
    shards = [newest_run(job.out) for of_task in jobs.values() for job in of_task]
    settings = shards[0].record.settings
    folder = sweep.root / "merged" / recipe
    folder.mkdir(parents=True, exist_ok=True)
    before = list(folder.iterdir())  # of the last merge; removed when this one is complete
    recorder = start(Recorder(new_run(settings["method"]), "sweep", settings))
    found = [tasks.find(name) for name in jobs]
    results: dict[str, dict[str, Any]] = {}
    for task in found:
        for leaf in task.leaves:
            order = sweep.plan["tasks"][task.name][leaf.name]
            results[leaf.name] = _metrics(leaf, _samples(leaf, jobs[task.name], order))
        if task.means:
            results[task.name] = _means(task, results)
    finish()
    answers = [answer for shard in shards for answer in shard.answers()]
    write_run(folder, _with_costs(recorder.to_run(), shards, answers), answers)
    write_json(folder / f"{recorder.run}_results.json", _results(sweep, recipe, found, results, recorder))
    for path in before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return results


def _with_costs(run: Run, shards: Sequence[FoundRun], answers: Sequence[dict[str, Any]]) -> Run:
    """The run with the counts and costs of all shards."""
    records = [shard.record for shard in shards]
    names = ("answered", "failed", "replayed", "restarts", "beyond_context", "world_size")
    counts = {name: sum(getattr(record, name) for record in records) for name in names}
    update = {
        "model": next((record.model for record in records if record.model), {}),
        "efficiency": total([answer["efficiency"] for answer in answers if answer.get("efficiency")]),
        "failures": dict(sum((Counter(record.failures) for record in records), Counter())),
        "notes": notes(counts["replayed"], counts["beyond_context"], len(answers)),
        "answers": ANSWERS,
    }
    return run.model_copy(update=counts | update)


def _samples(leaf: tasks.Leaf, jobs: Sequence[SweepJob], order: Sequence[str]) -> list[dict[str, Any]]:
    """A task's samples from all shards, in the order of an unsharded run."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if leaf.name not in job.leaves:
            continue
        path = samples.newest(job.out, leaf.name)
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path else []
            mine = {s["acc"]["records"][0]["video"]: s for s in map(json.loads, lines)}
        except (OSError, ValueError, LookupError, TypeError) as error:
            why = f"job {job.name}: {path} is not readable ({type(error).__name__})"
            raise StcError(f"{why}; {_AGAIN}") from None
        if set(mine) != set(job.videos[leaf.key]):
            raise StcError(f"job {job.name}: {path} has samples of other videos than its shard; {_AGAIN}")
        found |= mine
    return [found[video] for video in order]


def _metrics(leaf: tasks.Leaf, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Aggregated metrics in lmms-eval's form: `name,none`."""
    results: dict[str, Any] = {"alias": leaf.name}
    for metric, path in leaf.metrics.items():
        with contextlib.redirect_stdout(io.StringIO()):  # the table; reports print it
            results[f"{metric},none"] = tasks.aggregation(path)([sample[metric] for sample in found])
        results[f"{metric}_stderr,none"] = "N/A"
    return results


def _means(task: tasks.Task, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A group's metrics: the mean over its tasks of those that it asks for, as lmms-eval computes them."""
    of_leaves = [results[leaf.name] for leaf in task.leaves]
    found: dict[str, Any] = {"alias": task.name}
    for name in of_leaves[0]:
        metric = name.partition(",")[0]
        if metric.endswith("_stderr") or not any(mean in metric for mean in task.means):
            continue
        values = [leaf[name] for leaf in of_leaves]
        found[name] = sum(values) / len(values)
        found[f"{metric}_stderr,none"] = "N/A"
    return found


def _results(
    sweep: Sweep, recipe: str, found: Sequence[tasks.Task], results: dict[str, dict], recorder: Recorder
) -> dict[str, Any]:
    """A result file like lmms-eval's, as far as reports read it."""
    about = sweep.plan["recipes"][recipe]
    leaves = [leaf for task in found for leaf in task.leaves]
    rows = {name: len(videos) for task in found for name, videos in sweep.plan["tasks"][task.name].items()}
    return {
        "results": {name: _finite(values) for name, values in results.items()},
        "group_subtasks": {task.name: [leaf.name for leaf in task.leaves] for task in found if task.means},
        "versions": {leaf.name: leaf.version for leaf in leaves},
        "higher_is_better": {leaf.name: leaf.higher_is_better for leaf in leaves},
        "n-samples": {name: {"original": count, "effective": count} for name, count in rows.items()},
        "config": {
            "model": about["model"],
            "model_args": about["model_args"],
            "limit": None,
            "resolved_cli_args": {"stc_run": recorder.run, "stc_settings": recorder.settings},
        },
        "model_name": recipe,
        "date": recorder.run,
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON does not have, by None: a cost is NaN when nothing was measured."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
