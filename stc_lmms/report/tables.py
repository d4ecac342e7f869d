"""Accuracy and efficiency tables of finished lmms-eval runs, one row per run.

Reads what a run leaves in its output path: `stc_summary_<benchmark>.json` and `stc_efficiency_*.json`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stc_lmms.errors import DataError
from stc_lmms.streaming.timers import total

EFFICIENCY_COLUMNS = {
    "frames_encoded": "frames",
    "recomputed": "recomputed %",
    "llm_tokens_mean": "tokens/frame",
    "vit_ms_per_frame": "vit ms/frame",
    "prefill_ms_per_frame": "prefill ms/frame",
    "ttft_ms": "ttft ms",
    "per_token_ms": "ms/token",
    "kv_bytes": "KV MiB max",
    "state_bytes": "state MiB max",
}


def render(folders: Sequence[Path]) -> str:
    """Both tables as plain text.

    Args:
        folders: output paths, each of one run; the newest record of a folder counts.

    Raises:
        DataError: a folder holds no run.
    """
    runs = [_load(folder) for folder in folders]
    return "\n\n".join((_accuracy(runs), _efficiency(runs)))


def _load(folder: Path) -> dict[str, Any]:
    summaries = [_read(path) for path in sorted(folder.glob("stc_summary_*.json"))]
    newest = _newest(folder, rank=0)
    if not summaries or newest is None:
        raise DataError(f"{folder} holds no finished run; give the --output_path of an lmms-eval run")
    ranks = [newest, *(_newest(folder, rank) for rank in range(1, newest.get("world_size", 1)))]
    answers = [answer for record in ranks if record for answer in record["answers"]]
    newest["total"] = total([a["efficiency"] for a in answers if a.get("efficiency")])
    return {"name": folder.resolve().name, "summaries": summaries, "record": newest}


def _newest(folder: Path, rank: int) -> dict[str, Any] | None:
    paths = sorted(folder.glob(f"stc_efficiency_*_rank{rank}.json"), key=lambda path: path.stat().st_mtime)
    return _read(paths[-1]) if paths else None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _accuracy(runs: Sequence[dict[str, Any]]) -> str:
    rows = [
        ("run", "method", "benchmark", "n", "missing", "unparsed", "failed", "macro %", "micro %", "strict %")
    ]
    for run in runs:
        for entry in run["summaries"]:
            summary = entry["summary"]
            macro = summary["total"] or _mean_of_parts(summary)
            counts = [str(summary[key]) for key in ("n", "n_missing", "n_unparsed", "n_failed")]
            own = macro if summary["headline"] == "macro" else summary["micro"]
            scores = (macro["official"], summary["micro"]["official"], own["strict"])
            name = entry["benchmark"] + ("" if summary["total"] else " (some parts)")
            percent = [f"{100 * score:.2f}" for score in scores]
            rows.append((run["name"], run["record"]["settings"]["method"], name, *counts, *percent))
    note = (
        "macro: mean over parts of the mean over their tasks; micro: pooled over questions;\n"
        "strict: strict scorer, in the average that the benchmark itself reports"
    )
    return f"Accuracy\n{align(rows)}\n{note}"


def _mean_of_parts(summary: dict[str, Any]) -> dict[str, float]:
    parts = [part["macro"] for part in summary["parts"].values()]
    return {key: sum(part[key] for part in parts) / len(parts) for key in ("official", "strict")}


def _efficiency(runs: Sequence[dict[str, Any]]) -> str:
    rows = [("run", "method", *EFFICIENCY_COLUMNS.values())]
    for run in runs:
        sums = dict(run["record"]["total"])
        seen = sums.get("tower_tokens")
        sums["recomputed"] = 100 * sums["tower_tokens_recomputed"] / seen if seen else None
        for key in ("kv_bytes", "state_bytes"):
            sums[key] = sums.get(key, 0) / 2**20
        cells = [_cell(sums.get(key)) for key in EFFICIENCY_COLUMNS]
        rows.append((run["name"], run["record"]["settings"]["method"], *cells))
    described = [run["record"]["model"] for run in runs if run["record"]["model"]]
    where = f"\n{_where(described[-1])}" if described else ""
    return f"Efficiency\n{align(rows)}{where}"


def _where(model: dict[str, Any]) -> str:
    env = model["environment"]
    versions = f"torch {env['torch']}, transformers {env['transformers']}"
    return f"{env['device']}, {env['threads']} threads, {model['dtype']}, {model['attention']}; {versions}"


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first two to the left, the others to the right; a rule under the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)
