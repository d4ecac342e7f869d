"""Accuracy and efficiency tables of finished lmms-eval runs, one row per run.

Reads what a run leaves in its output path: `stc_summary_<benchmark>_<run>.json` and
`stc_efficiency_<run>_rank<r>.json`. Only files of the same run are put together.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stc_lmms.errors import DataError
from stc_lmms.text_table import text_table
from stc_lmms.results.read import rank_notes
from stc_lmms.results.scores import mean_of_parts
from stc_lmms.engine.timers import total

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
        folders: output paths; of each, the newest run of every distinct set of model arguments is shown.

    Raises:
        DataError: a folder holds no finished run.
    """
    runs = [run for folder in folders for run in _load(folder)]
    return "\n\n".join((_accuracy(runs), _efficiency(runs)))


def _load(folder: Path) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("stc_efficiency_*_rank*.json")):
        record = _read(path)
        found.setdefault(record.get("run"), {"ranks": [], "summaries": []})["ranks"].append(record)
    for path in sorted(folder.glob("stc_summary_*.json")):
        summary = _read(path)
        found.setdefault(summary.get("run"), {"ranks": [], "summaries": []})["summaries"].append(summary)
    finished = [found[run] for run in sorted(found, key=str) if found[run]["summaries"]]
    if not finished:
        raise DataError(f"{folder} holds no finished run; give the --output_path of an lmms-eval run")
    newest = {json.dumps(run["summaries"][0]["settings"], sort_keys=True): run for run in finished}
    return [_joined(folder.resolve().name, **run) for run in newest.values()]


def _joined(name: str, summaries: list[dict[str, Any]], ranks: list[dict[str, Any]]) -> dict[str, Any]:
    answers = [answer for rank in ranks for answer in rank["answers"]]
    return {
        "name": name,
        "method": (summaries[0]["settings"] or {}).get("method", "-"),
        "summaries": summaries,
        "total": total([a["efficiency"] for a in answers if a.get("efficiency")]),
        "model": next((rank["model"] for rank in ranks if rank["model"]), None),
        "notes": rank_notes(ranks, len(answers)),
    }


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
            macro = summary["total"] or mean_of_parts(summary["parts"])
            counts = [str(summary[key]) for key in ("n", "n_missing", "n_unparsed", "n_failed")]
            own = macro if summary["headline"] == "macro" else summary["micro"]
            scores = (macro["official"], summary["micro"]["official"], own["strict"])
            name = entry["benchmark"] + ("" if summary["total"] else " (some parts)")
            percent = [f"{100 * score:.2f}" for score in scores]
            rows.append((run["name"], run["method"], name, *counts, *percent))
    note = (
        "macro: mean over parts of the mean over their tasks; micro: pooled over questions;\n"
        "strict: strict scorer, in the average that the benchmark itself reports"
    )
    return f"Accuracy\n{text_table(rows[0], rows[1:], left=2)}\n{note}"


def _efficiency(runs: Sequence[dict[str, Any]]) -> str:
    rows = [("run", "method", *EFFICIENCY_COLUMNS.values())]
    for run in runs:
        sums = dict(run["total"])
        seen = sums.get("tower_tokens")
        sums["recomputed"] = 100 * sums["tower_tokens_recomputed"] / seen if seen else None
        for key in ("kv_bytes", "state_bytes"):
            sums[key] = sums.get(key, 0) / 2**20
        cells = [_cell(sums.get(key)) for key in EFFICIENCY_COLUMNS]
        rows.append((run["name"], run["method"], *cells))
    lines = dict.fromkeys(_where(run["model"]) for run in runs if run["model"])  # mostly one
    notes = [f"{run['name']} ({run['method']}): {note}" for run in runs for note in run["notes"]]
    return "\n".join(("Efficiency", text_table(rows[0], rows[1:], left=2), *lines, *notes))


def _where(model: dict[str, Any]) -> str:
    env = model["environment"]
    versions = f"torch {env['torch']}, transformers {env['transformers']}"
    return f"{env['device']}, {env['threads']} threads, {model['dtype']}, {model['attention']}; {versions}"


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"
