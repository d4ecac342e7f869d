"""A sweep's YAML file, checked, and the jobs that it expands to.

output: results/sweep        # folder of the whole sweep
recipes: [llava_ov_none, llava_ov_stc, mine.yaml]
tasks: [ovobench_stream]     # default: the tasks of each recipe
model_args: {fps: 1}         # override arguments of the recipes
shards: 8                    # per task
gpus_per_job: 1
slurm: {partition: gpu, time: "4:00:00"}
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from stc_lmms.errors import SettingsError
from stc_lmms.eval import run_config
from stc_lmms.eval.run_config import RunConfig
from stc_lmms.suggest import unknown
from stc_lmms.sweep import shards, tasks
from stc_lmms.sweep.folder import VERSION
from stc_lmms.sweep.slurm import SlurmOptions


@dataclass(frozen=True)
class Spec:
    """The content of a sweep's file."""

    output: Path
    recipes: tuple[RunConfig, ...]
    tasks: tuple[str, ...] = ()
    shards: int = 1
    gpus_per_job: int = 1
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


KEYS = (*(f.name for f in dataclasses.fields(Spec)), "model_args")


def read(path: Path, **slurm: Any) -> Spec:
    """Read a sweep's file and its recipes, whose files are relative to it; `slurm` overrides its options.

    Raises:
        SettingsError: a key or a value is wrong.
    """
    content = run_config.read_mapping(path, "sweep", KEYS)
    names = _names(path, content, "recipes")
    configs = [run_config.read(path.parent / n if n.endswith((".yaml", ".yml")) else n) for n in names]
    for config in configs:
        if (limit := config.others.get("limit")) is not None:
            problem = (
                f"recipe {config.name}: limit={limit} cannot be used in a sweep, whose jobs are whole videos"
            )
            raise SettingsError(f"{problem}; leave it out and use a small task, such as ovobench_stream_tiny")
        if [other.name for other in configs].count(config.name) > 1:
            raise SettingsError(f"{path}: two recipes are called {config.name!r}; rename a file")
    options = _typed(path, content, "slurm", dict, {})
    for key in options:
        if key not in SlurmOptions.__dataclass_fields__:
            raise SettingsError(f"{path}: slurm: {unknown('key', key, SlurmOptions.__dataclass_fields__)}")
    counts = {key: _typed(path, content, key, int, 1) for key in ("shards", "gpus_per_job")}
    for key, value in counts.items():
        if value < 1:
            raise SettingsError(f"{path}: {key}={value} must be at least 1")
    chosen = SlurmOptions(**options | slurm)
    if chosen.gpus_per_node and chosen.gpus_per_node < counts["gpus_per_job"]:
        problem = f"gpus_per_job={counts['gpus_per_job']} is more than the {chosen.gpus_per_node} of a node"
        raise SettingsError(f"{path}: {problem}; a job stays on one node: use more shards")
    output = Path(_typed(path, content, "output", str, ""))
    if not output.name:
        raise SettingsError(f"{path}: output must name the sweep's folder")
    chosen_tasks = tuple(_names(path, content, "tasks")) if "tasks" in content else ()
    for task in chosen_tasks or [task for config in configs for task in config.tasks]:
        tasks.find(task)
    configs = run_config.override_args(configs, _typed(path, content, "model_args", dict, {}))
    return Spec(output, tuple(configs), chosen_tasks, slurm=chosen, **counts)


def make_plan(spec: Spec) -> dict[str, Any]:
    """All jobs of a sweep, as plain JSON values. Every recipe is checked in full.

    Raises:
        SettingsError, CheckpointError: a recipe does not work.
        DataError: a benchmark's annotations or all its videos are missing.
    """
    settings = {config.name: run_config.check(config) for config in spec.recipes}
    order: dict[str, dict[str, list[str]]] = {}
    jobs: list[dict[str, Any]] = []
    sharded = cache(partial(_shards, count=spec.shards, ranks=spec.gpus_per_job))
    for config in spec.recipes:
        for name in spec.tasks or config.tasks:
            order[name], task_shards = sharded(name, settings[config.name].fps)
            for index, shard in enumerate(task_shards):
                jobs.append({"recipe": config.name, "task": name, "shard": index} | shard)
    recipes = {
        config.name: {
            "model": config.model,
            "model_args": dict(config.model_args),
            "device": str(config.others.get("device") or settings[config.name].device),
            "batch_size": config.others.get("batch_size", 1),
        }
        for config in spec.recipes
    }
    counts = {"shards": spec.shards, "gpus_per_job": spec.gpus_per_job}
    return {"version": VERSION} | counts | {"recipes": recipes, "tasks": order, "jobs": jobs}


def _shards(
    name: str, fps: float, count: int, ranks: int
) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """The order of a task's videos in an unsharded run, and its shards at a frame rate."""
    leaves = tasks.find(name).leaves
    keys = {leaf.name: leaf.key for leaf in leaves}
    rows = {leaf.name: leaf.rows() for leaf in leaves}
    videos = {leaf: [(row["benchmark"], row["video"]) for row in found] for leaf, found in rows.items()}
    loads = shards.video_loads(itertools.chain(*rows.values()), fps)
    made = []
    for chosen in shards.shard_videos(loads, count):
        inside = set(chosen)
        by_leaf = {leaf: [video for video in listed if video in inside] for leaf, listed in videos.items()}
        used = {leaf: listed for leaf, listed in by_leaf.items() if listed}
        ordered = shards.assign_to_ranks(used, loads, ranks)
        made.append(
            {
                "leaves": {leaf: keys[leaf] for leaf in ordered},
                "videos": {keys[leaf]: [name for _, name in listed] for leaf, listed in ordered.items()},
                "streams": [frames for video in chosen for frames in loads[video].streams],
                "rounds": sum(loads[video].rounds for video in chosen),
            }
        )
    return {leaf: [row["video"] for row in found] for leaf, found in rows.items()}, made


def _typed(path: Path, content: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = content.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SettingsError(f"{path}: {key}={value!r} must be of type {kind.__name__}")
    return value


def _names(path: Path, content: Mapping[str, Any], key: str) -> list[str]:
    value = content.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise SettingsError(f"{path}: {key} must be a list of names, got {value!r}")
    return list(dict.fromkeys(value))
