"""Counts, accuracies and averages of records, and their table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from typing_extensions import TypedDict  # typing's cannot be validated by pydantic in Python 3.11

from stc_lmms.benchmarks.base import Record
from stc_lmms.text_table import text_table

# Count -> heading in the table.
_COLUMNS = {"n": "n"} | {f"n_{x.replace(' ', '_')}": x for x in ("missing", "unparsed", "failed", "past end")}


class Scores(TypedDict):
    """A fraction between 0 and 1 by each scorer."""

    official: float
    strict: float


class Counts(TypedDict):
    """Questions, and those with problems; all of them are part of `n`."""

    n: int
    n_missing: int
    n_unparsed: int
    n_failed: int
    n_past_end: int


class TaskSummary(Counts):
    """One sub-task: correct answers and accuracy by each scorer."""

    correct: dict[str, int]
    accuracy: Scores


class PartSummary(Counts):
    """One part: `macro` is the mean over its tasks, `micro` the mean over its questions."""

    tasks: dict[str, TaskSummary]
    macro: Scores
    micro: Scores


class Summary(Counts):
    """A whole run.

    Attributes:
        total: mean of the parts' macro averages; None unless every expected part has records.
        micro: mean over all questions; None without records.
        absent: expected parts (`forward`) and tasks (`realtime/OCR`) without records.
        headline: the average the benchmark reports: `macro` or `micro`.
    """

    parts: dict[str, PartSummary]
    total: Scores | None
    micro: Scores | None
    absent: list[str]
    headline: Literal["macro", "micro"]


def summarise(
    records: Iterable[Record], expected: Mapping[str, Sequence[str]], headline: Literal["macro", "micro"]
) -> Summary:
    """Summarise records, one per question; missing, unparsed and failed questions count as wrong.

    `expected` has the tasks of each part of the complete benchmark, in table order.
    """
    records = list(records)
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        groups.setdefault(record["part"], {}).setdefault(record["task"], []).append(record)
    parts = {part: _part(groups[part], expected.get(part, ())) for part in _ordered(groups, expected)}
    absent = [part for part in expected if part not in parts]
    return {
        **_counts(records),
        "parts": parts,
        "total": None if not parts or absent else mean([part["macro"] for part in parts.values()]),
        "micro": mean(records) if records else None,
        "absent": absent
        + [f"{p}/{t}" for p in parts for t in expected.get(p, ()) if t not in parts[p]["tasks"]],
        "headline": headline,
    }


def format_table(summary: Summary, only: str | None = None) -> str:
    """Plain text table of every sub-task, its counts, both scorers in percent, and all averages.

    With `only`, only the tasks of that part are listed; the totals are shown if no part is absent.
    """
    columns = {key: title for key, title in _COLUMNS.items() if key != "n_past_end" or summary["n_past_end"]}
    mark = {kind: " *" if summary["headline"] == kind else "" for kind in ("macro", "micro")}
    rows: list[list[str]] = []

    def add(label: str, counts: Counts, scores: Scores | None) -> None:
        percent = [f"{100 * scores[name]:.2f}" for name in ("official", "strict")] if scores else ["-", "-"]
        rows.append([label, *(str(counts[key]) for key in columns), *percent])  # type: ignore[literal-required]

    for name, part in summary["parts"].items():
        if only in (None, name):
            for task, values in part["tasks"].items():
                add(f"{name} / {task}", values, values["accuracy"])
            add(f"{name}: macro (mean of tasks){mark['macro']}", part, part["macro"])
            add(f"{name}: micro (pooled){mark['micro']}", part, part["micro"])
    if only is None or summary["total"] is not None:
        add(f"total: macro (mean of parts){mark['macro']}", summary, summary["total"])
        add(f"total: micro (pooled){mark['micro']}", summary, summary["micro"])
    head = ("task", *columns.values(), "official %", "strict %")
    lines = [text_table(head, rows), "* the average this benchmark reports"]
    if only is None and summary["absent"]:
        lines.append(f"PARTIAL: no questions of {', '.join(summary['absent'])}")
    return "\n".join(lines)


def _part(groups: Mapping[str, list[Record]], tasks: Sequence[str]) -> PartSummary:
    summaries = {task: _task(groups[task]) for task in _ordered(groups, tasks)}
    pooled = [record for records in groups.values() for record in records]
    macro = mean([task["accuracy"] for task in summaries.values()])
    return {**_counts(pooled), "tasks": summaries, "macro": macro, "micro": mean(pooled)}


def _task(records: list[Record]) -> TaskSummary:
    correct = {scorer: sum(r[scorer] for r in records) for scorer in ("official", "strict")}
    return {**_counts(records), "correct": correct, "accuracy": mean(records)}


def _counts(records: Sequence[Record]) -> Counts:
    return {
        "n": len(records),
        "n_missing": sum(record["missing"] for record in records),
        "n_unparsed": sum(record["unparsed"] for record in records),
        "n_failed": sum(bool(record["failed"]) for record in records),
        "n_past_end": sum(record["past_end"] for record in records),
    }


def mean(values: Sequence[Scores] | Sequence[Record]) -> Scores:
    """The mean by each scorer."""
    return {name: sum(value[name] for value in values) / len(values) for name in ("official", "strict")}


def _ordered(present: Iterable[str], expected: Iterable[str]) -> list[str]:
    """The present names: first the expected ones in their order, then the others sorted."""
    names, order = set(present), list(expected)
    return [name for name in order if name in names] + sorted(names.difference(order))
