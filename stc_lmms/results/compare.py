"""The table of a comparison: accuracy against `none` on the same questions, and what it cost."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from stc_lmms.eval.experiments import Outcome, Scored
from stc_lmms.results.paired import LEVEL, paired_difference
from stc_lmms.text_table import text_table

BASE = "none"
MIB = 2**20
COLUMNS = {
    "recomputed": "recomputed %",
    "vit_ms_per_frame": "vit ms/frame",
    "prefill_ms_per_frame": "prefill ms/frame",
    "ttft_ms": "ttft ms",
    "llm_tokens_mean": "tokens/frame",
    "llm_tokens_max": "max",
    "kv_mib": "KV MiB",
    "peak_mib": "peak MiB",
}


def rows(outcomes: Sequence[Outcome], seed: int = 0) -> list[dict[str, Any]]:
    """One row per configuration, as plain JSON values.

    `accuracy` is the official score pooled over all questions, in percent, `interval` its own; `difference`
    is that to `none`, None if `none` did not run; `subtasks` is [questions, accuracy] by task and sub-task.
    """
    base = next((o.scores for o in outcomes if o.configuration.method == BASE and o.scores), None)
    return [_row(outcome, base, seed) for outcome in outcomes]


def by_question(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every question as [task, video, id, sub-task], and each configuration's scores in that order."""
    ran = [outcome for outcome in outcomes if outcome.scores]
    asked = {key: one.subtask for outcome in ran for key, one in outcome.scores.items()}
    scores = {
        o.configuration.name: [o.scores[key].score if key in o.scores else None for key in asked] for o in ran
    }
    return {"questions": [[*key, subtask] for key, subtask in asked.items()], "scores": scores}


def _row(outcome: Outcome, base: dict | None, seed: int) -> dict[str, Any]:
    cell, scores, cost = outcome.configuration, outcome.scores, outcome.cost
    about = {"name": cell.name, "method": cell.method, "budget": cell.budget, "varied": dict(cell.varied)}
    if not scores:
        return about | {"trouble": outcome.trouble, "skipped": outcome.skipped}
    found: dict[str, Any] = {
        "n": len(scores),
        "n_failed": cost["failed"],
        "replayed": cost["replayed"],
        "accuracy": 100 * sum(one.score for one in scores.values()) / len(scores),
        "interval": _interval(scores, seed),
        "difference": None,
        "subtasks": _subtasks(scores),
    }
    if base is not None and cell.method != BASE:
        pairs = [(one.video, one.score, base[key].score) for key, one in scores.items() if key in base]
        found["difference"] = dataclasses.asdict(paired_difference(pairs, seed=seed))
    seen, again = cost.get("tower_tokens"), cost.get("tower_tokens_recomputed")
    sizes: dict[str, Any] = {"recomputed": 100 * again / seen if seen else None}
    sizes |= {"kv_mib": cost["kv_bytes"] / MIB, "peak_mib": cost["peak_memory_bytes"] / MIB}
    return about | found | {name: (cost | sizes).get(name) for name in COLUMNS}


def _interval(scores: Mapping[tuple[str, str, str], Scored], seed: int) -> list[float | None]:
    own = paired_difference([(one.video, one.score, 0.0) for one in scores.values()], seed=seed)
    return [own.low, own.high]


def _subtasks(scores: Mapping[tuple[str, str, str], Scored]) -> dict[str, dict[str, tuple[int, float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for (task, _, _), one in scores.items():
        found.setdefault(task, {}).setdefault(one.subtask, []).append(one.score)
    return {
        task: {name: (len(own), 100 * sum(own) / len(own)) for name, own in sorted(parts.items())}
        for task, parts in found.items()
    }


def text(found: Sequence[dict[str, Any]], on_gpu: bool) -> str:
    """The rows as a table, with what every column means, and a line for each that did not run."""
    ran = [row for row in found if "n" in row]
    head = ("method", "budget", "n", "failed", "accuracy %", f"to {BASE}", f"{100 * LEVEL:.0f} % interval")
    cells = [(*head, *COLUMNS.values())]
    for row in ran:
        budget = "-" if row["budget"] is None else str(row["budget"])
        method = " ".join((row["method"], *(f"{name}={value}" for name, value in row["varied"].items())))
        counts = (method, budget, str(row["n"]), str(row["n_failed"]), f"{row['accuracy']:.2f}")
        cells.append((*counts, *_difference(row["difference"]), *(_cell(row[name]) for name in COLUMNS)))
    lines = [text_table(cells[0], cells[1:], left=2)] if ran else []
    for row in found:
        if "n" not in row:
            lines.append(f"{row['name']}: {'skipped' if row['skipped'] else 'failed'}: {row['trouble']}")
    lines += [
        f"{row['name']}: {row['replayed']} answers were timed by the run that it resumed"
        for row in ran
        if row["replayed"]
    ]
    if ran:
        lines.append(
            "accuracy: official score pooled over all questions; to none: percentage points on the same "
            "questions, with a paired bootstrap over videos"
        )
        peak = "of the device, of each run" if on_gpu else "of the process so far, so it never falls"
        lines.append(f"KV, max: largest of any answer; peak: {peak}")
    return "\n".join(lines)


def _difference(found: dict[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    interval = "-" if found["low"] is None else f"{found['low']:+.2f} to {found['high']:+.2f}"
    return f"{found['mean']:+.2f}", interval


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"
