"""The leaderboard as one self-contained HTML page that makes no requests."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from stc_lmms import __version__
from stc_lmms.errors import StcError
from stc_lmms.results.charts import FRAME, charts
from stc_lmms.results.columns import DEFINITIONS, TEXT, shown
from stc_lmms.results.leaderboard import Row, group_by, groups, known_columns
from stc_lmms.results.published import NOTES, comparison
from stc_lmms.results.read import FoundRun, differing_settings


def to_html(rows: Sequence[Row], runs: Sequence[FoundRun]) -> str:
    """The page; all text from the runs is escaped.

    Raises:
        StcError: Jinja2 is not installed.
    """
    text = files(__package__).joinpath("leaderboard.html.j2").read_text(encoding="utf-8")
    return (
        template_environment()
        .from_string(text)
        .render(
            version=__version__,
            rows=rows,
            runs=runs,
            columns=known_columns(rows),
            text_columns=TEXT,
            frame=FRAME,
            benchmarks=list(dict.fromkeys(row.score.benchmark for row in rows)),
            comparisons=[_comparison(group) for group in groups(rows)],
            published=group_by(comparison(runs), lambda line: line["benchmark"]),
            published_notes=NOTES,
            differing=differing_settings(runs),
            definitions=DEFINITIONS,
        )
    )


def template_environment() -> Any:
    """Jinja2's environment for the page.

    Raises:
        StcError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        why = "the HTML page needs Jinja2: pip install 'stc-lmms[report]', or leave html out of --format"
        raise StcError(why) from None
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = shown
    return environment


def _comparison(rows: Sequence[Row]) -> dict[str, Any]:
    score = rows[0].score
    return {
        "title": score.benchmark,
        "about": f"{score.average} average" + (f", {score.n} questions" if score.n is not None else ""),
        "charts": charts(rows),
        "heat": _heat(rows),
    }


def _heat(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Sub-tasks by runs; `share` is a cell's position between the lowest and the highest, from 0 to 1."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.score.tasks))
    values = [accuracy for row in rows for accuracy, _ in row.score.tasks.values()]
    if not values:
        return None
    low, high = min(values), max(values)

    def cell(row: Row, task: str) -> dict[str, Any] | None:
        if task not in row.score.tasks:
            return None
        value, n = row.score.tasks[task]
        return {
            "value": value,
            "n": n,
            "share": round((value - low) / (high - low), 3) if high > low else 0.0,
        }

    lines = [{"row": row, "cells": [cell(row, task) for task in tasks]} for row in rows]
    names = [task.rpartition(" / ")[::2] for task in tasks]
    return {"tasks": names, "lines": lines, "low": low, "high": high}
