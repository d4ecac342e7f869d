"""The grid of `stc-lmms compare`: its cells, its index `compare.json`, and its table against `none`."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stc_lmms.results.columns import HEADINGS, costs, shown
from stc_lmms.results.paired import LEVEL, paired_difference
from stc_lmms.results.schema import FILE, Run
from stc_lmms.results.write import FOLDER
from stc_lmms.text_table import text_table

BASE = "none"
# Key in compare.json -> key of the column.
_COSTS = {
    "recomputed": "recomputed",
    "vit_ms_per_frame": "vit_ms",
    "prefill_ms_per_frame": "prefill_ms",
    "ttft_ms": "ttft_ms",
    "llm_tokens_mean": "tokens_mean",
    "llm_tokens_max": "tokens_max",
    "kv_mib": "kv_mib",
    "peak_mib": "peak_mib",
}


@dataclass(frozen=True)
class Cell:
    """One configuration of the grid.

    Attributes:
        budget: LLM tokens per frame; None for a method without a budget.
        varied: (name, value) of the other arguments of the method that differ over the grid.
    """

    method: str
    budget: int | None
    varied: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Also the name of the cell's folder."""
        plain = self.method if self.budget is None else f"{self.method}_{self.budget}"
        return ",".join((plain, *("=".join(pair) for pair in self.varied)))

    def model_args(self, common: dict[str, Any]) -> dict[str, Any]:
        """Model arguments: the common ones with those of this cell."""
        budget = {} if self.budget is None else {"token_budget": self.budget}
        return common | dict(self.varied) | {"method": self.method} | budget


@dataclass(frozen=True)
class QuestionScore:
    """The official score of a question, 0 to 1, with its video and sub-task."""

    video: str
    subtask: str
    score: float


Scores = Mapping[tuple[str, str, str], QuestionScore]
"""By task, video and question."""


@dataclass(frozen=True)
class Outcome:
    """The result of a cell.

    Attributes:
        error: why it was skipped or failed, in one line; "" if it ran.
        skipped: it was never started: its budget or arguments are invalid.
    """

    cell: Cell
    error: str = ""
    skipped: bool = False
    run: Run | None = None
    scores: Scores = field(default_factory=dict)


def rows(outcomes: Sequence[Outcome], seed: int = 0) -> list[dict[str, Any]]:
    """One row per cell, as plain JSON values.

    `run` is the path of the cell's `run.json` in the grid's folder. `accuracy` is the official score pooled
    over all questions, in percent, `interval` its confidence interval; `difference` is the paired difference
    to `none`, None if `none` did not run; `subtasks` is [questions, accuracy] by task and sub-task. The costs
    are repeated from the run so that a recorded grid can be kept without the folders of its cells.
    """
    base = next((o.scores for o in outcomes if o.cell.method == BASE and o.scores), None)
    return [_row(outcome, base, seed) for outcome in outcomes]


def by_question(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every question as [task, video, id, sub-task], and the scores of each cell in that order."""
    ran = [outcome for outcome in outcomes if outcome.scores]
    subtasks = {key: one.subtask for outcome in ran for key, one in outcome.scores.items()}
    scores = {o.cell.name: [o.scores[k].score if k in o.scores else None for k in subtasks] for o in ran}
    return {"questions": [[*key, subtask] for key, subtask in subtasks.items()], "scores": scores}


def _row(outcome: Outcome, base: Scores | None, seed: int) -> dict[str, Any]:
    cell, scores, run = outcome.cell, outcome.scores, outcome.run
    about = {"name": cell.name, "method": cell.method, "budget": cell.budget, "varied": dict(cell.varied)}
    if not scores or run is None:
        return about | {"error": outcome.error, "skipped": outcome.skipped}
    own = paired_difference([(one.video, one.score, 0.0) for one in scores.values()], seed=seed)
    found: dict[str, Any] = {
        "run": f"{cell.name}/{FOLDER}{run.run}/{FILE}",
        "n": len(scores),
        "n_failed": run.failed,
        "replayed": run.replayed,
        "accuracy": 100 * sum(one.score for one in scores.values()) / len(scores),
        "interval": [own.low, own.high],
        "difference": None,
        "subtasks": _subtasks(scores),
    }
    if base is not None and cell.method != BASE:
        pairs = [(one.video, one.score, base[key].score) for key, one in scores.items() if key in base]
        found["difference"] = dataclasses.asdict(paired_difference(pairs, seed=seed))
    cells = costs(run.efficiency)
    return about | found | {name: cells[key] for name, key in _COSTS.items()}


def _subtasks(scores: Scores) -> dict[str, dict[str, tuple[int, float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for (task, _, _), one in scores.items():
        found.setdefault(task, {}).setdefault(one.subtask, []).append(one.score)
    return {
        task: {name: (len(own), 100 * sum(own) / len(own)) for name, own in sorted(parts.items())}
        for task, parts in found.items()
    }


def text(found: Sequence[dict[str, Any]], on_gpu: bool) -> str:
    """The rows as a table with a legend, and one line for each cell that did not run."""
    ran = [row for row in found if "n" in row]
    head = ("method", "budget", "n", "failed", "accuracy %", f"to {BASE}", f"{100 * LEVEL:.0f} % interval")
    cells = []
    for row in ran:
        budget = "-" if row["budget"] is None else str(row["budget"])
        method = " ".join((row["method"], *(f"{name}={value}" for name, value in row["varied"].items())))
        counts = (method, budget, str(row["n"]), str(row["n_failed"]), f"{row['accuracy']:.2f}")
        cells.append((*counts, *_difference(row["difference"]), *(shown(row[name]) for name in _COSTS)))
    columns = (*head, *(HEADINGS[key] for key in _COSTS.values()))
    lines = [text_table(columns, cells, left=2)] if ran else []
    for row in found:
        if "n" not in row:
            lines.append(f"{row['name']}: {'skipped' if row['skipped'] else 'failed'}: {row['error']}")
    resumed = [row for row in ran if row["replayed"]]
    lines += [f"{r['name']}: {r['replayed']} answers were timed by the run that it resumed" for r in resumed]
    if ran:
        lines.append(
            "accuracy: official score pooled over all questions; to none: percentage points on the same "
            "questions, with a paired bootstrap over videos"
        )
        peak = "of the device, of each run" if on_gpu else "of the process so far, so it never falls"
        lines.append(f"KV: largest of any answer; peak: {peak}")
    return "\n".join(lines)


def _difference(found: dict[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    interval = "-" if found["low"] is None else f"{found['low']:+.2f} to {found['high']:+.2f}"
    return f"{found['mean']:+.2f}", interval
