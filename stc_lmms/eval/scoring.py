"""From the answers about one row to records, and from all records to the summary file of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stc_lmms.benchmarks.base import Record
from stc_lmms.benchmarks.registry import find
from stc_lmms.benchmarks.summary import Summary


def score(row: Mapping[str, Any], responses: Sequence[str]) -> list[Record]:
    """One record per question of a row of `load_rows`; answers may carry a `record`, see `AnswerText`."""
    reports = {index: getattr(response, "record", {}) for index, response in enumerate(responses)}
    return find(row["benchmark"]).score_row(row, responses, reports)


def summary_name(row: Mapping[str, Any]) -> str:
    """What summaries call a row's benchmark, such as `ovobench_mini`."""
    return find(row["benchmark"]).label(row["size"])


def write_summary(
    folder: Path, name: str, summary: Summary, run: str | None, settings: Mapping[str, Any] | None
) -> None:
    """Leave `stc_summary_<benchmark>_<run>.json` in the folder.

    Args:
        folder: made if needed.
        name: see `summary_name`.
        summary: of all parts so far.
        run: see `new_run`; None for a model that is not ours.
        settings: resolved model arguments; None or just the name for a model that is not ours.
    """
    path = folder / f"stc_summary_{name}{f'_{run}' if run else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, "run": run, "settings": settings, "summary": summary}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
