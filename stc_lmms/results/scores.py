"""The accuracy of a run on one benchmark: from our summaries, and from the harnesses' result files."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stc_lmms.benchmarks.registry import find_label
from stc_lmms.benchmarks.summary import Summary, mean
from stc_lmms.errors import DataError
from stc_lmms.results.schema import Score

_PREFERRED = ("acc", "accuracy", "exact_match", "score", "overall")


def of_benchmark(label: str, summary: Summary) -> Score:
    """The score of a run on one of our benchmarks.

    Args:
        label: benchmark and size, such as `ovobench_mini`.
        summary: in `run.json`.
    """
    parts, kind = summary["parts"], summary["headline"]
    averages = {
        "macro": summary["total"] or mean([part["macro"] for part in parts.values()]),
        "micro": summary["micro"],
    }
    return Score(
        benchmark=task_name(label, parts if summary["total"] is None else None),
        accuracy=100 * averages[kind]["official"],
        average=kind,
        strict=100 * averages[kind]["strict"],
        macro=100 * averages["macro"]["official"],
        micro=100 * averages["micro"]["official"],
        parts={name: 100 * part[kind]["official"] for name, part in parts.items()},
        tasks={
            f"{name} / {task}": (100 * values["accuracy"]["official"], values["n"])
            for name, part in parts.items()
            for task, values in part["tasks"].items()
        },
        **{key: summary[key] for key in ("n", "n_missing", "n_unparsed", "n_failed")},
    )


def task_name(label: str, parts: Iterable[str] | None = None) -> str:
    """Name in tables of a summary's benchmark, with the parts it has if it is incomplete.

    A benchmark that this version does not have keeps its label.
    """
    try:
        benchmark, size = find_label(label)
    except DataError:
        return label if parts is None else f"{label} ({', '.join(parts)})"
    return benchmark.task_name(size, parts)


def of_results(content: Mapping[str, Any]) -> list[Score]:
    """The scores in lmms-eval's `*_results.json`: one for each group or task that is in no group.

    A metric counts when higher is better and it is a finite number. When none of its values in a group is
    above 1, they are taken for fractions.
    """
    results = content["results"]
    groups = {name: subs for name, subs in (content.get("group_subtasks") or {}).items() if subs}
    inside = {sub for subs in groups.values() for sub in subs}
    scores = []
    for task in (name for name in results if name not in inside):
        subs = groups.get(task, ())
        metric = _metric(content, task, subs)
        if metric is None:
            continue
        values = {name: _value(results.get(name), metric) for name in (task, *subs)}
        known = {name: value for name, value in values.items() if value is not None}
        ours = any(_value(results[name], "acc_strict") is not None for name in known)
        scale = 1 if ours or max(map(abs, known.values())) > 1 else 100
        own = known.get(task)
        scores.append(
            Score(
                benchmark=task,
                accuracy=scale * (sum(known.values()) / len(known) if own is None else own),
                average=metric if own is not None else f"mean {metric}",
                n=_count(content, task, groups),
                tasks={s: (scale * known[s], _count(content, s, groups)) for s in subs if s in known},
                ours=ours,
            )
        )
    return scores


def of_status(content: Mapping[str, Any]) -> list[Score]:
    """The scores in VLMEvalKit's `status.json`: the primary metric of every dataset that has one.

    One that is not above 1 is taken for a fraction.
    """
    scores = []
    for name, dataset in content["datasets"].items():
        metrics, primary = dataset.get("metrics") or {}, dataset.get("primary_metric")
        metric = primary[0] if isinstance(primary, list) else primary
        value = _value(metrics, metric) if metric else None
        if value is None:
            continue
        strict = _value(metrics, "acc_strict")
        ours = strict is not None
        n = _value(metrics, "n") if ours else None
        scores.append(
            Score(
                benchmark=name,
                accuracy=value if ours or abs(value) > 1 else 100 * value,
                average=metric,
                n=None if n is None else int(n),
                strict=strict,
                ours=ours,
            )
        )
    return scores


def _metric(content: Mapping[str, Any], task: str, subs: Sequence[str]) -> str | None:
    better = content.get("higher_is_better") or {}
    for name in (task, *subs):
        values = content["results"].get(name) or {}
        metrics = dict.fromkeys(key.partition(",")[0] for key in values)
        usable = [
            metric
            for metric in metrics
            if metric not in ("alias", "samples")
            and "_stderr" not in metric
            and _value(values, metric) is not None
            and (better.get(name) or {}).get(metric, True) is not False
        ]
        if usable:
            return min(usable, key=lambda m: _PREFERRED.index(m) if m in _PREFERRED else len(_PREFERRED))
    return None


def _value(values: Mapping[str, Any] | None, metric: str) -> float | None:
    """The metric of a task, whatever filter its name ends with (`acc,none`)."""
    for key, value in (values or {}).items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if key.partition(",")[0] == metric and number:
            return float(value)
    return None


def _count(content: Mapping[str, Any], task: str, groups: Mapping[str, Sequence[str]]) -> int | None:
    """Questions of a task, or the sum over a group's tasks; of our tasks the questions, not the videos."""
    values = _value(content["results"].get(task), "n")
    if values is not None:
        return int(values)
    counts = [_count(content, sub, groups) for sub in groups.get(task, ())]
    if counts:
        return None if None in counts else sum(counts)
    return ((content.get("n-samples") or {}).get(task) or {}).get("effective")
