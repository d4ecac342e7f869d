"""The leaderboard: one row per run and benchmark, the Pareto fronts, and its text, Markdown, CSV and JSON."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stc_lmms.results.columns import COST, DEFINITIONS, HEADINGS, SCORE, costs, shown
from stc_lmms.results.published import NOTES, comparison
from stc_lmms.results.read import FoundRun
from stc_lmms.results.schema import Score
from stc_lmms.text_table import text_table

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Row:
    """One run on one benchmark: `cells` has the keys of `HEADINGS`, and `front_tokens`, `front_ms`."""

    run: FoundRun
    score: Score
    cells: dict[str, Any]


def build(runs: Sequence[FoundRun]) -> list[Row]:
    """All rows with the Pareto fronts marked; the benchmark with the most rows first, then by accuracy."""
    rows = [Row(run, score, _cells(run, score)) for run in runs for score in run.scores]
    count = Counter(row.score.benchmark for row in rows)
    rows.sort(key=lambda row: (-count[row.score.benchmark], row.score.benchmark, -row.score.accuracy))
    for comparable in groups(rows):
        _mark(comparable, "tokens_mean", "front_tokens")
        for same in by_hardware(comparable).values():
            _mark(same, "frame_ms", "front_ms")
    return rows


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Key -> its items, in the order in which they first appear."""
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Comparable rows: the same benchmark, parts, average and number of questions."""
    return [*group_by(rows, lambda row: (row.score.benchmark, row.score.average, row.score.n)).values()]


def by_hardware(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Hardware -> its rows."""
    return group_by(rows, lambda row: row.run.hardware)


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, accuracy) points are on the front: no other point costs no more and scores no less."""
    return [
        not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        for cost, accuracy in points
    ]


def _mark(rows: Sequence[Row], cost: str, key: str) -> None:
    known = [row for row in rows if row.cells[cost] is not None]
    for row, on in zip(known, pareto([(r.cells[cost], r.score.accuracy) for r in known]), strict=True):
        row.cells[key] = on


def _cells(run: FoundRun, score: Score) -> dict[str, Any]:
    names = {
        "run": run.label,
        "model": run.model_name,
        "method": run.method,
        "memory": str(run.record.settings.get("memory", "-")),
        "benchmark": score.benchmark,
    }
    about = {"average": score.average, "hardware": run.hardware, "front_tokens": False, "front_ms": False}
    return names | {key: getattr(score, key) for key in SCORE} | costs(run.record.efficiency) | about


def known_columns(rows: Sequence[Row]) -> dict[str, str]:
    """The columns in which any row has a value."""
    return {key: name for key, name in HEADINGS.items() if any(row.cells[key] is not None for row in rows)}


def to_json(rows: Sequence[Row], runs: Sequence[FoundRun], published: bool = True) -> str:
    """Rows with sub-tasks, runs with settings and costs; optionally published numbers and definitions."""
    content: dict[str, Any] = {
        "rows": [
            row.cells
            | {"parts": row.score.parts}
            | {"tasks": {name: {"accuracy": a, "n": n} for name, (a, n) in row.score.tasks.items()}}
            for row in rows
        ],
        "runs": [
            {
                "run": run.label,
                "source": str(run.folder),
                "stamp": run.record.run,
                "hardware": run.hardware,
                "settings": run.record.settings,
                "model": run.record.model,
                "cost": run.record.efficiency,
                "failures": run.record.failures,
                "notes": run.record.notes,
            }
            for run in runs
        ],
    }
    if published:
        content |= {"published": comparison(runs), "published_notes": NOTES, "definitions": DEFINITIONS}
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """One line per row; unknown numbers are empty."""
    columns = [*HEADINGS, "average", "front_tokens", "front_ms", "hardware"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.cells[key] for key in columns] for row in rows)
    return out.getvalue()


def to_text(rows: Sequence[Row], runs: Sequence[FoundRun]) -> str:
    """Two tables for the terminal: accuracy of each row, costs of each run; then hardware and notes."""
    accuracy = ("run", "method", "benchmark", *SCORE)
    of_runs = {row.run.label: row.cells for row in rows}
    efficiency = ("run", "method", *COST)
    hardware = dict.fromkeys(run.hardware for run in runs if run.hardware != "unknown")
    notes = [f"{run.label} ({run.method}): {note}" for run in runs for note in run.record.notes]
    return "\n".join(
        (
            "Accuracy",
            _text([row.cells for row in rows], accuracy, left=3),
            "macro: mean over parts of the mean over their tasks; micro: pooled over questions;",
            "accuracy and strict: official and strict scorer, in the average that the benchmark reports",
            "",
            "Efficiency",
            _text(list(of_runs.values()), efficiency, left=2),
            *hardware,
            *notes,
        )
    )


def _text(cells: Sequence[Mapping[str, Any]], columns: Sequence[str], left: int) -> str:
    head = [HEADINGS[key] for key in columns]
    return text_table(head, [[shown(row[key]) for key in columns] for row in cells], left)


def to_markdown(rows: Sequence[Row], runs: Sequence[FoundRun]) -> str:
    """The tables of the page, without its figures."""
    columns = known_columns(rows)
    body = [[shown(row.cells[key]) for key in columns] + [_front(row.cells)] for row in rows]
    text = ["# Leaderboard", "", *_table([*columns.values(), "Pareto front"], body, 3)]
    text += ["", "## Published numbers", ""]
    found = comparison(runs)
    heads = ["benchmark", "model", "method", "published %", "our run", "ours %", "gap", "known problems"]
    body = [
        [p["benchmark"], p["model"], p["method"], shown(p["published"]), *cells, p["caveat"] or "-"]
        for p in found
        for cells in [[o["run"], shown(o["accuracy"]), f"{o['gap']:+.2f}"] for o in p["ours"]]
        or [["-", "-", "-"]]
    ]
    text += [*_table(heads, body, 3), "", *(f"- {_plain(note)}" for note in NOTES), "", "## Runs", ""]
    for run in runs:
        settings = ", ".join(f"{key}={value}" for key, value in run.record.settings.items())
        notes = "".join(f"; {note}" for note in run.record.notes)
        text.append(f"- **{_plain(run.label)}**: {_plain(run.hardware + notes)}; {_plain(settings)}")
    text += ["", "## Definitions", ""]
    text += [f"- **{name}**: {meaning}." for name, meaning in DEFINITIONS.items()]
    return "\n".join(text) + "\n"


def _front(cells: Mapping[str, Any]) -> str:
    names = {"front_tokens": "tokens", "front_ms": "time"}
    return ", ".join(name for key, name in names.items() if cells[key]) or "-"


def _table(head: Sequence[str], body: Sequence[Sequence[str]], left: int) -> list[str]:
    """A Markdown table; the first `left` columns are aligned to the left."""
    rule = [":---" if i < left else "---:" for i in range(len(head))]
    lines = [head, rule, *([_plain(cell) for cell in row] for row in body)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(text: str) -> str:
    """Escape text for Markdown: no markup, no HTML, one line."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return "".join(f"\\{char}" if char in r"\|`[]*" else char for char in text)
