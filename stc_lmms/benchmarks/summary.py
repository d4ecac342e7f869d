"""From records to numbers: counts, accuracy per task, the two kinds of average, and a plain table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict

from stc_lmms.benchmarks.base import Record
from stc_lmms.text_table import text_table

# Count to its heading in the table.
_COLUMNS = {
    "n": "n",
    "n_missing": "missing",
    "n_unparsed": "unparsed",
    "n_failed": "failed",
    "n_past_end": "past end",
}


class Scores(TypedDict):
    """A fraction between 0 and 1 by each scorer."""

    official: float
    strict: float


class Counts(TypedDict):
    """How many questions there were and how many went wrong before scoring; all stay in n.

    `n_past_end` were asked past the end of their video, so at its end.
    """

    n: int
    n_missing: int
    n_unparsed: int
    n_failed: int
    n_past_end: int


class TaskSummary(Counts):
    """One sub-task: right answers and accuracy by each scorer."""

    correct: dict[str, int]
    accuracy: Scores


class PartSummary(Counts):
    """One part: `macro` is the mean over its tasks, `micro` is pooled over its questions."""

    tasks: dict[str, TaskSummary]
    macro: Scores
    micro: Scores


class Summary(Counts):
    """A whole run.

    Attributes:
        parts: one entry per part that has records.
        total: mean of the parts' macro averages; None unless every expected part has records.
        micro: pooled over all questions; None without records.
        absent: expected parts (`forward`) and tasks (`realtime/OCR`) without any record.
        headline: which average the benchmark itself reports: `macro` or `micro`.
    """

    parts: dict[str, PartSummary]
    total: Scores | None
    micro: Scores | None
    absent: list[str]
    headline: str


def summarise(
    records: Iterable[Record],
    expected: Mapping[str, Sequence[str]],
    headline: Literal["macro", "micro"],
) -> Summary:
    """Summarise records; missing, unparsed and failed questions stay in every denominator.

    Args:
        records: one per question.
        expected: part -> tasks of the complete benchmark, in the order of its tables.
        headline: the average the benchmark reports.
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
        "total": None if not parts or absent else _mean([part["macro"] for part in parts.values()]),
        "micro": _accuracy(records) if records else None,
        "absent": absent
        + [f"{p}/{t}" for p in parts for t in expected.get(p, ()) if t not in parts[p]["tasks"]],
        "headline": headline,
    }


def format_table(summary: Summary, only: str | None = None) -> str:
    """Return a plain text table: every sub-task, its counts, both scorers in percent, all averages.

    The column "past end" is there when a question was asked past the end of its video.

    Args:
        summary: of a run or of what is there of it.
        only: list the tasks of this part; the totals follow when no part is absent. None lists all.
    """
    parts = {name: part for name, part in summary["parts"].items() if only in (None, name)}
    columns = dict(_COLUMNS)
    if not summary["n_past_end"]:
        del columns["n_past_end"]
    rows = []
    star = {kind: " *" if summary["headline"] == kind else "" for kind in ("macro", "micro")}
    for name, part in parts.items():
        for task, values in part["tasks"].items():
            rows.append((f"{name} / {task}", *_cells(values, columns), *_percent(values["accuracy"])))
        for kind, label in (("macro", "macro (mean of tasks)"), ("micro", "micro (pooled)")):
            rows.append((f"{name}: {label}{star[kind]}", *_cells(part, columns), *_percent(part[kind])))
    if only is None or summary["total"] is not None:
        total = f"total: macro (mean of parts){star['macro']}"
        rows.append((total, *_cells(summary, columns), *_percent(summary["total"])))
        total = f"total: micro (pooled){star['micro']}"
        rows.append((total, *_cells(summary, columns), *_percent(summary["micro"])))
    head = ("task", *columns.values(), "official %", "strict %")
    lines = [text_table(head, rows), "* the average this benchmark reports"]
    if only is None and summary["absent"]:
        lines.append(f"PARTIAL: no questions of {', '.join(summary['absent'])}")
    return "\n".join(lines)


def _part(groups: Mapping[str, list[Record]], tasks: Sequence[str]) -> PartSummary:
    summaries = {task: _task(groups[task]) for task in _ordered(groups, tasks)}
    pooled = [record for records in groups.values() for record in records]
    macro = _mean([task["accuracy"] for task in summaries.values()])
    return {**_counts(pooled), "tasks": summaries, "macro": macro, "micro": _accuracy(pooled)}


def _task(records: list[Record]) -> TaskSummary:
    correct = {scorer: sum(r[scorer] for r in records) for scorer in ("official", "strict")}
    return {**_counts(records), "correct": correct, "accuracy": _accuracy(records)}


def _counts(records: Sequence[Record]) -> Counts:
    return {
        "n": len(records),
        "n_missing": sum(record["missing"] for record in records),
        "n_unparsed": sum(record["unparsed"] for record in records),
        "n_failed": sum(bool(record["failed"]) for record in records),
        "n_past_end": sum(record["past_end"] for record in records),
    }


def _accuracy(records: Sequence[Record]) -> Scores:
    return _mean([{"official": record["official"], "strict": record["strict"]} for record in records])


def _mean(values: Sequence[Scores]) -> Scores:
    return {
        "official": sum(value["official"] for value in values) / len(values),
        "strict": sum(value["strict"] for value in values) / len(values),
    }


def _ordered(present: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Return the present names: those expected in their order, then the others by name."""
    names, order = set(present), list(expected)
    return [name for name in order if name in names] + sorted(names.difference(order))


def _cells(counts: Counts, columns: Iterable[str]) -> list[str]:
    return [str(counts[key]) for key in columns]  # type: ignore[literal-required]


def _percent(scores: Scores | None) -> list[str]:
    return ["-", "-"] if scores is None else [f"{100 * scores[s]:.2f}" for s in ("official", "strict")]
