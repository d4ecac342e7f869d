"""The tasks of this package, read from their YAML files: groups, parts, and how metrics are aggregated.

lmms-eval is not imported: that takes longer than a plan or a merge.
"""

import json
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stc_lmms.benchmarks.registry import find as find_benchmark
from stc_lmms.errors import DataError, SettingsError
from stc_lmms.eval.shard import key
from stc_lmms.resources import tasks_root
from stc_lmms.suggest import unknown


class _Loader(yaml.SafeLoader):
    """Reads `!function package.module.name` as a string."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


@dataclass(frozen=True)
class Leaf:
    """A task with rows: one part of one benchmark, see `Benchmark.load_rows`."""

    name: str
    benchmark: str
    part: str
    size: str
    metrics: dict[str, str]  # name of each metric and the dotted path of its aggregation
    higher_is_better: dict[str, bool]  # by metric
    version: Any

    @property
    def key(self) -> str:
        """Its name in a shard file."""
        return key(self.benchmark, self.part)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order of an unsharded run; see `Benchmark.load_rows`."""
        return find_benchmark(self.benchmark).load_rows(self.part, self.size)


@dataclass(frozen=True)
class Task:
    """A task or a group of tasks, as users name it."""

    name: str
    leaves: tuple[Leaf, ...]  # the tasks of the group; of a task, itself
    means: tuple[str, ...] = ()  # a metric is averaged over the group if its name contains one of these


def find(name: str) -> Task:
    """The task or group called `name`."""
    files = _files()
    if name not in files:
        raise SettingsError(unknown("task of this package", name, files))
    path, content = files[name]
    if "group" not in content:
        return Task(name, (_leaf(path, content),))
    means = content.get("aggregate_metric_list") or []
    leaves = tuple(leaf for sub in content["task"] for leaf in find(sub).leaves)
    return Task(name, leaves, tuple(mean["metric"] for mean in means))


def aggregation(path: str) -> Callable[..., float]:
    """The aggregation function at a dotted path, which must be in this package."""
    if not path.startswith("stc_lmms."):
        raise DataError(f"aggregation {path!r} is not a function of this package; only its tasks are merged")
    return pkgutil.resolve_name(path)


@cache
def _files() -> dict[str, tuple[Path, dict[str, Any]]]:
    found = {}
    for path in sorted(tasks_root().glob("*/*.yaml")):
        content = _read(path)
        found[content.get("group") or content["task"]] = (path, content)
    return found


def _read(path: Path) -> dict[str, Any]:
    content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a SafeLoader)
    included = content.pop("include", None)
    return (_read(path.parent / included) if included else {}) | content


def _leaf(path: Path, content: dict[str, Any]) -> Leaf:
    file = path.parent / content["dataset_kwargs"]["data_files"]["test"]
    (source,) = json.loads(file.read_text(encoding="utf-8"))
    metrics = content["metric_list"]
    return Leaf(
        content["task"],
        **{"size": ""} | source,
        metrics={metric["metric"]: metric["aggregation"] for metric in metrics},
        higher_is_better={metric["metric"]: metric["higher_is_better"] for metric in metrics},
        version=content["metadata"]["version"],
    )
