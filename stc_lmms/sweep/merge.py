"""Merges the shards of a recipe to the results of one unsharded run, bit for bit.

lmms-eval's sample files hold, for every video, the values that its metrics are made of. They are put into the
order of an unsharded run and given to the aggregations that the task's YAML names, the very functions that
lmms-eval calls. The efficiency files of the shards become ranks of one run.
"""

import contextlib
import io
import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stc_lmms.errors import StcError
from stc_lmms.eval.lmms_tasks import forget
from stc_lmms.sweep import samples, tasks
from stc_lmms.sweep.files import read_json, write_json
from stc_lmms.sweep.folder import Sweep, SweepJob

_AGAIN = "delete that file and resume: the journal has its answers"


@dataclass(frozen=True)
class Merged:
    """What became of one recipe.

    Attributes:
        recipe: which.
        results: metrics by task and group, in lmms-eval's form, of the tasks whose shards are all done.
        missing: by task that was not merged, its jobs that are not done, or have lost what they left.
        error: why nothing was merged though there was something; the last merge stays.
    """

    recipe: str
    results: dict[str, dict[str, Any]]
    missing: dict[str, list[str]]
    error: str = ""


def merge(sweep: Sweep) -> Iterator[Merged]:
    """Merge every recipe, one at a time, to one run on all its finished tasks; an error is its own."""
    recipes: dict[str, dict[str, list[SweepJob]]] = {}
    for job in sweep.jobs:
        recipes.setdefault(job.recipe, {}).setdefault(job.task, []).append(job)
    for recipe, by_task in recipes.items():
        missing = {
            task: open_jobs
            for task, jobs in by_task.items()
            if (open_jobs := [job.name for job in jobs if not _is_done(job)])
        }
        done = {task: jobs for task, jobs in by_task.items() if task not in missing}
        try:
            yield Merged(recipe, _merge(sweep, recipe, done) if done else {}, missing)
        except StcError as error:
            yield Merged(recipe, {}, missing, str(error))


def _is_done(job: SweepJob) -> bool:
    return job.status()["state"] == "done" and not samples.missing(job)


def _merge(sweep: Sweep, recipe: str, jobs: dict[str, list[SweepJob]]) -> dict[str, dict[str, Any]]:
    ranks = [path for of_task in jobs.values() for job in of_task for path in _efficiency(job)]
    settings = read_json(ranks[0])["settings"]
    run = f"{datetime.now():%Y%m%d_%H%M%S_%f}"[:-3] + f"_{settings['method']}"
    folder = sweep.root / "merged" / recipe
    folder.mkdir(parents=True, exist_ok=True)
    before = [path for path in folder.iterdir() if path.is_file()]  # of the last merge, until this one stands
    args = Namespace(output_path=str(folder), stc_run=run, stc_settings=settings)
    found = [tasks.find(name) for name in jobs]
    results: dict[str, dict[str, Any]] = {}
    for task in found:
        for leaf in task.leaves:
            values = _samples(leaf, jobs[task.name], sweep.plan["tasks"][task.name][leaf.name])
            with contextlib.redirect_stdout(io.StringIO()):  # the table; reports print it
                results[leaf.name] = _metrics(leaf, values, args)
        if task.means:
            results[task.name] = _means(task, results)
    forget(args)
    for rank, path in enumerate(ranks):
        about = {"run": run, "rank": rank, "world_size": len(ranks)}
        write_json(folder / f"stc_efficiency_{run}_rank{rank}.json", read_json(path) | about)
    write_json(folder / f"{run}_results.json", _results(sweep, recipe, found, results, args))
    for path in before:
        path.unlink()
    return results


def _efficiency(job: SweepJob) -> list[Path]:
    """The efficiency files of a job's newest run."""
    names = [path.name.rpartition("_rank")[0] for path in job.out.glob("stc_efficiency_*_rank*.json")]
    return sorted(job.out.glob(f"{max(names)}_rank*.json"))


def _samples(leaf: tasks.Leaf, jobs: Sequence[SweepJob], order: Sequence[str]) -> list[dict[str, Any]]:
    """A task's samples from all shards, in the order of an unsharded run."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if leaf.name not in job.leaves:
            continue
        path = samples.newest(job.out, leaf.name)
        try:
            mine = {s["acc"]["records"][0]["video"]: s for s in samples.read(path)} if path else {}
        except (OSError, ValueError, LookupError, TypeError) as error:
            why = f"job {job.name}: {path} is not readable ({type(error).__name__})"
            raise StcError(f"{why}; {_AGAIN}") from None
        if set(mine) != set(job.videos[leaf.key]):
            raise StcError(f"job {job.name}: {path} has samples of other videos than its shard; {_AGAIN}")
        found |= mine
    return [found[video] for video in order]


def _metrics(leaf: tasks.Leaf, found: Sequence[dict[str, Any]], args: Namespace) -> dict[str, Any]:
    """Aggregated metrics in lmms-eval's form: `name,none`."""
    results: dict[str, Any] = {"alias": leaf.name}
    for metric, path in leaf.metrics:
        function = tasks.aggregation(path)
        items = [sample[metric] for sample in found]
        value = function(items, args=args) if metric == "acc" else function(items)
        results[f"{metric},none"] = value
        results[f"{metric}_stderr,none"] = "N/A"
    return results


def _means(task: tasks.Task, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A group's metrics: the mean over its tasks of those that it asks for, as lmms-eval reckons them."""
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
    sweep: Sweep,
    recipe: str,
    found: Sequence[tasks.Task],
    results: dict[str, dict[str, Any]],
    args: Namespace,
) -> dict[str, Any]:
    """What reports read of lmms-eval's result file."""
    about = sweep.plan["recipes"][recipe]
    leaves = [leaf for task in found for leaf in task.leaves]
    rows = {name: len(videos) for task in found for name, videos in sweep.plan["tasks"][task.name].items()}
    return {
        "results": {name: _finite(values) for name, values in results.items()},
        "group_subtasks": {task.name: [leaf.name for leaf in task.leaves] for task in found if task.means},
        "versions": {leaf.name: leaf.version for leaf in leaves},
        "higher_is_better": {leaf.name: dict(leaf.higher_is_better) for leaf in leaves},
        "n-samples": {name: {"original": count, "effective": count} for name, count in rows.items()},
        "config": {
            "model": about["model"],
            "model_args": about["model_args"],
            "limit": None,
            "resolved_cli_args": {"stc_run": args.stc_run, "stc_settings": args.stc_settings},
        },
        "model_name": recipe,
        "date": args.stc_run,
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN, which a cost is when nothing was measured."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
