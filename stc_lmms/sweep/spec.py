"""What a sweep is: the keys of its YAML file, checked, and the jobs that they make.

output: results/sweep        # folder of everything
recipes: [llava_ov_none, llava_ov_stc, mine.yaml]
tasks: [ovobench_stream]     # default: those of each recipe
model_args: {fps: 1}         # in place of those of the recipes
shards: 8                    # of every task
gpus_per_job: 1
slurm: {partition: gpu, time: "4:00:00"}
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stc_lmms.errors import SettingsError
from stc_lmms.eval import run_config as config_files
from stc_lmms.eval.run_config import RunConfig
from stc_lmms.suggest import unknown
from stc_lmms.sweep import shards, tasks

VERSION = 1  # of the plan in `sweep.json`
_TIME = re.compile(r"\d+|(\d+-)?\d+(:\d+){1,2}|\d+-\d+")


@dataclass(frozen=True)
class SlurmOptions:
    """How the jobs of a sweep run on a cluster; None leaves the choice to the cluster.

    Attributes:
        partition, account, qos: as in sbatch.
        time: limit of a job, as in sbatch. A job that reaches it is put back into the queue and goes on.
        nodes: how many nodes the sweep uses at once; with `gpus_per_node` it limits the array.
        gpus_per_node: GPUs of a node; 0 for nodes without.
        cpus_per_job, mem_per_job: as `--cpus-per-task` and `--mem`.
        array_limit: jobs at once, of one start or resume; default: what `nodes` and `gpus_per_node` hold,
            else all.
        notice_s: seconds before the time limit at which a job is told to stop.
        setup: shell lines before a job, such as `module load cuda`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    cpus_per_job: int | None = None
    mem_per_job: str | None = None
    array_limit: int | None = None
    notice_s: int = 120
    setup: str = ""

    def __post_init__(self):
        """Check types and ranges."""
        for f in dataclasses.fields(self):
            value, least = getattr(self, f.name), 0 if f.name in ("gpus_per_node", "notice_s") else 1
            if value is None:
                continue
            if f.name == "time" and isinstance(value, int):  # YAML reads 4:00:00 as a number of seconds
                raise SettingsError(f"slurm: time={value} must be in quotes, such as '4:00:00'")
            if "int" in str(f.type):
                if isinstance(value, bool) or not isinstance(value, int) or value < least:
                    raise SettingsError(
                        f"slurm: {f.name}={value!r} must be a whole number of {least} or more"
                    )
            elif not isinstance(value, str) or (
                f.name != "setup" and not re.fullmatch(r"[\w.:@,+-]+", value)
            ):
                raise SettingsError(f"slurm: {f.name}={value!r} must be a text without spaces")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise SettingsError(f"slurm: time={self.time!r} is not a time of sbatch, such as '4:00:00'")

    def at_once(self, gpus_per_job: int) -> int | None:
        """Jobs that may run at the same time; None for any number."""
        if self.array_limit or not (self.nodes and self.gpus_per_node):
            return self.array_limit
        return max(1, self.nodes * (self.gpus_per_node // gpus_per_job))


@dataclass(frozen=True)
class Spec:
    """A sweep as its file says."""

    output: Path
    recipes: tuple[RunConfig, ...]
    tasks: tuple[str, ...] = ()
    shards: int = 1
    gpus_per_job: int = 1
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


KEYS = (*(f.name for f in dataclasses.fields(Spec)), "model_args")


def read(path: Path, **slurm: Any) -> Spec:
    """Read a sweep's file.

    Args:
        path: the YAML file; recipes that it names as files are relative to it.
        slurm: options that replace those of the file, where they are not None.

    Raises:
        SettingsError: a key or a value is wrong; recipes are read, but not yet checked against a checkpoint.
    """
    content = config_files.mapping(path, "sweep", KEYS)
    args = _typed(path, content, "model_args", dict, {})
    names = _names(path, content, "recipes")
    found = [config_files.read(path.parent / n if n.endswith((".yaml", ".yml")) else n) for n in names]
    for recipe in found:
        if recipe.others.get("limit") is not None:
            raise SettingsError(
                f"recipe {recipe.name}: limit={recipe.others['limit']} has no use in a sweep, whose jobs are "
                "whole videos; leave it out and use a small task, such as ovobench_stream_tiny"
            )
        if [other.name for other in found].count(recipe.name) > 1:
            raise SettingsError(f"{path}: two recipes are called {recipe.name!r}; rename a file")
    options = _typed(path, content, "slurm", dict, {})
    for key in options:
        if key not in SlurmOptions.__dataclass_fields__:
            raise SettingsError(f"{path}: slurm: {unknown('key', key, SlurmOptions.__dataclass_fields__)}")
    counts = {key: _typed(path, content, key, int, 1) for key in ("shards", "gpus_per_job")}
    for key, value in counts.items():
        if value < 1:
            raise SettingsError(f"{path}: {key}={value} must be at least 1")
    chosen = SlurmOptions(**options | {key: value for key, value in slurm.items() if value is not None})
    if chosen.gpus_per_node and chosen.gpus_per_node < counts["gpus_per_job"]:
        raise SettingsError(
            f"{path}: gpus_per_job={counts['gpus_per_job']} is more than the {chosen.gpus_per_node} of a "
            "node; a job stays on one node: use more shards"
        )
    output = Path(_typed(path, content, "output", str, ""))
    if not output.name:
        raise SettingsError(f"{path}: output must name the sweep's folder")
    wanted = tuple(_names(path, content, "tasks")) if "tasks" in content else ()
    for task in wanted or [task for recipe in found for task in recipe.tasks]:
        tasks.find(task)
    return Spec(output, tuple(config_files.fitted(found, args)), wanted, slurm=chosen, **counts)


def plan(spec: Spec) -> dict[str, Any]:
    """All jobs of a sweep, as plain JSON values: what is written once and never changed.

    Every recipe is checked in full. The same file on the same data gives the same plan.

    Raises:
        SettingsError, CheckpointError: a recipe does not work.
        DataError: a benchmark's annotations or all its videos are missing.
    """
    settings = {recipe.name: config_files.check(recipe) for recipe in spec.recipes}
    cuts: dict[tuple[str, float], _Cut] = {}
    jobs: list[dict[str, Any]] = []
    for recipe in spec.recipes:
        for name in spec.tasks or recipe.tasks:
            fps = settings[recipe.name].fps
            if (name, fps) not in cuts:
                cuts[name, fps] = _Cut(name, fps, spec.shards, spec.gpus_per_job)
            shards_of = enumerate(cuts[name, fps].shards)
            jobs += [{"recipe": recipe.name, "task": name, "shard": i} | shard for i, shard in shards_of]
    return {
        "version": VERSION,
        "shards": spec.shards,
        "gpus_per_job": spec.gpus_per_job,
        "recipes": {
            recipe.name: {
                "model": recipe.model,
                "model_args": dict(recipe.model_args),
                "device": str(recipe.others.get("device") or settings[recipe.name].device),
                "batch_size": recipe.others.get("batch_size", 1),
            }
            for recipe in spec.recipes
        },
        "tasks": {name: cut.order for (name, _), cut in cuts.items()},
        "jobs": jobs,
    }


class _Cut:
    """The shards of a task at a frame rate, and the order of its videos in an unsharded run."""

    def __init__(self, name: str, fps: float, count: int, ranks: int):
        leaves = tasks.find(name).leaves
        rows = {leaf.name: leaf.rows() for leaf in leaves}
        keys = {leaf.name: leaf.key for leaf in leaves}
        self.order = {leaf: [row["video"] for row in found] for leaf, found in rows.items()}
        loads = shards.video_loads((row for found in rows.values() for row in found), fps)
        videos = {leaf: [(row["benchmark"], row["video"]) for row in found] for leaf, found in rows.items()}
        self.shards = []
        for chosen in shards.cut(loads, count):
            inside = set(chosen)
            mine = {leaf: [video for video in listed if video in inside] for leaf, listed in videos.items()}
            dealt = shards.deal({leaf: listed for leaf, listed in mine.items() if listed}, loads, ranks)
            self.shards.append(
                {
                    "leaves": {leaf: keys[leaf] for leaf in dealt},
                    "videos": {keys[leaf]: [video for _, video in listed] for leaf, listed in dealt.items()},
                    "streams": [frames for video in chosen for frames in loads[video].streams],
                    "rounds": sum(loads[video].rounds for video in chosen),
                }
            )


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
