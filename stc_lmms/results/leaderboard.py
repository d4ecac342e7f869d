"""The leaderboard: one row per run and benchmark, the Pareto fronts, and its Markdown, CSV and JSON forms."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stc_lmms.results.published import NOTES, PUBLISHED, gaps
from stc_lmms.results.read import Run
from stc_lmms.results.scores import Score

# Key of a row to its heading, in the order of every table: what is asked first stands first.
COLUMNS = {
    "run": "run",
    "method": "method",
    "benchmark": "benchmark",
    "accuracy": "accuracy %",
    "tokens_mean": "tokens/frame",
    "frame_ms": "ms/frame",
    "vit_ms": "ViT ms/frame",
    "prefill_ms": "prefill ms/frame",
    "ttft_ms": "TTFT ms",
    "token_ms": "ms/token",
    "tokens_max": "tokens/frame max",
    "recomputed": "recomputed %",
    "kv_mib": "KV MiB",
    "peak_mib": "peak MiB",
    "strict": "strict %",
    "macro": "macro %",
    "micro": "micro %",
    "n": "n",
    "n_missing": "missing",
    "n_unparsed": "unparsed",
    "n_failed": "failed",
    "memory": "memory",
    "model": "model",
}
TEXT = frozenset({"run", "method", "benchmark", "memory", "model"})
_OF_SCORE = ("n", "n_missing", "n_unparsed", "n_failed", "accuracy", "strict", "macro", "micro")
DEFINITIONS = {
    "accuracy %": "the average that the benchmark itself reports, by its official scorer; missing, unparsed "
    "and failed answers count as wrong. Of plain lmms-eval files: the first metric of which more is better; "
    "values of at most 1 are taken for fractions",
    "strict %": "by the strict scorer, in the same average",
    "macro %, micro %": "mean over parts of the mean over their tasks; pooled over all questions",
    "tokens/frame": "LLM tokens kept per frame: mean over answers of the mean over the stream; max: most of "
    "any frame",
    "recomputed %": "vision-tower tokens that were computed, not reused",
    "ms/frame": "ViT, projector, token method and prefill for one frame, without decoding and preprocessing",
    "ViT ms/frame, prefill ms/frame": "vision tower with the method in it; prefill of visual tokens",
    "TTFT ms": "from the question to its first answer token, mean over answers",
    "ms/token": "each further answer token, mean over answers",
    "KV MiB, peak MiB": "most that the KV cache held of one stream; peak memory of the device, or of the "
    "process where there is no GPU",
    "Pareto front": "runs that no other run beats in one of accuracy and cost without being worse in the "
    "other. Only runs on the same benchmark, the same number of questions and, for time, the same hardware "
    "are compared",
    "costs": "over all answers of a run, so over all benchmarks it was asked for together",
}


@dataclass(frozen=True)
class Row:
    """One run on one benchmark: `cells` has the keys of `COLUMNS`, and `front_tokens`, `front_ms`."""

    run: Run
    score: Score
    cells: dict[str, Any]


def build(runs: Sequence[Run]) -> list[Row]:
    """All rows with the Pareto fronts marked; the benchmark with most rows first, then by accuracy."""
    rows = [Row(run, score, _cells(run, score)) for run in runs for score in run.scores]
    count = Counter(row.score.benchmark for row in rows)
    rows.sort(key=lambda row: (-count[row.score.benchmark], row.score.benchmark, -row.score.accuracy))
    for comparable in groups(rows):
        _mark(comparable, "tokens_mean", "front_tokens")
        for same in by_hardware(comparable).values():
            _mark(same, "frame_ms", "front_ms")
    return rows


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may be compared: the same benchmark, parts, average and number of questions."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row.score.benchmark, row.score.average, row.score.n), []).append(row)
    return list(found.values())


def by_hardware(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Hardware -> its rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.run.hardware, []).append(row)
    return found


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, accuracy) points no other beats: costs no more, scores no less, and is not equal."""
    return [
        not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        for cost, accuracy in points
    ]


def _mark(rows: Sequence[Row], cost: str, key: str) -> None:
    known = [row for row in rows if row.cells[cost] is not None]
    for row, on in zip(known, pareto([(r.cells[cost], r.score.accuracy) for r in known]), strict=True):
        row.cells[key] = on


def _cells(run: Run, score: Score) -> dict[str, Any]:
    cost = run.cost
    frames, seen = cost.get("frames_encoded"), cost.get("tower_tokens")
    stages = ("vit_ms", "project_ms", "method_ms", "prefill_ms")
    return {
        "run": run.label,
        "model": run.model_name,
        "method": run.method,
        "memory": str(run.settings.get("memory", "-")),
        "benchmark": score.benchmark,
        **{key: getattr(score, key) for key in _OF_SCORE},
        "tokens_mean": cost.get("llm_tokens_mean"),
        "tokens_max": cost.get("llm_tokens_max"),
        "recomputed": 100 * cost["tower_tokens_recomputed"] / seen if seen else None,
        "frame_ms": sum(cost[stage] for stage in stages) / frames if frames else None,
        "vit_ms": cost.get("vit_ms_per_frame"),
        "prefill_ms": cost.get("prefill_ms_per_frame"),
        "ttft_ms": cost.get("ttft_ms"),
        "token_ms": cost.get("per_token_ms"),
        "kv_mib": cost["kv_bytes"] / 2**20 if "kv_bytes" in cost else None,
        "peak_mib": cost["peak_memory_bytes"] / 2**20 if "peak_memory_bytes" in cost else None,
        "average": score.average,
        "hardware": run.hardware,
        "front_tokens": False,
        "front_ms": False,
    }


def shown(value: Any) -> str:
    """A cell as text: two decimals of a fraction, `-` for what is not known."""
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def known_columns(rows: Sequence[Row]) -> dict[str, str]:
    """The columns in which any row has something."""
    return {key: name for key, name in COLUMNS.items() if any(row.cells[key] is not None for row in rows)}


def comparison(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every published row with the gaps of our runs, in percentage points."""
    return [
        {
            "benchmark": row.benchmark,
            "model": row.base,
            "method": row.label,
            "published": row.accuracy,
            "published_parts": row.parts,
            "speed": row.speed,
            "caveat": row.caveat,
            "source": row.source,
            "ours": [
                {
                    "run": gap.run.label,
                    "method": gap.run.method,
                    "accuracy": gap.score.accuracy,
                    "gap": gap.points,
                    "gap_parts": gap.parts,
                    "differs": gap.differs,
                }
                for gap in gaps(row, runs)
            ],
        }
        for row in PUBLISHED
    ]


def to_json(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """Rows with sub-tasks, runs with their settings, the published numbers and the definitions."""
    content = {
        "rows": [
            row.cells
            | {"parts": row.score.parts}
            | {"tasks": {name: {"accuracy": a, "n": n} for name, (a, n) in row.score.tasks.items()}}
            for row in rows
        ],
        "runs": [
            {
                "run": run.label,
                "source": run.source,
                "stamp": run.stamp,
                "hardware": run.hardware,
                "settings": run.settings,
                "model": run.model,
                "cost": run.cost,
                "notes": run.notes,
            }
            for run in runs
        ],
        "published": comparison(runs),
        "published_notes": NOTES,
        "definitions": DEFINITIONS,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """One line per row; empty where a number is not known."""
    columns = [*COLUMNS, "average", "front_tokens", "front_ms", "hardware"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.cells[key] for key in columns] for row in rows)
    return out.getvalue()


def to_markdown(rows: Sequence[Row], runs: Sequence[Run]) -> str:
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
        settings = ", ".join(f"{key}={value}" for key, value in run.settings.items())
        notes = "".join(f"; {note}" for note in run.notes)
        text.append(f"- **{_plain(run.label)}**: {_plain(run.hardware + notes)}; {_plain(settings)}")
    text += ["", "## Definitions", ""]
    text += [f"- **{name}**: {meaning}." for name, meaning in DEFINITIONS.items()]
    return "\n".join(text) + "\n"


def _front(cells: Mapping[str, Any]) -> str:
    names = {"front_tokens": "tokens", "front_ms": "time"}
    return ", ".join(name for key, name in names.items() if cells[key]) or "-"


def _table(head: Sequence[str], body: Sequence[Sequence[str]], left: int) -> list[str]:
    """A Markdown table; the first `left` columns to the left."""
    rule = [":---" if i < left else "---:" for i in range(len(head))]
    lines = [head, rule, *([_plain(cell) for cell in row] for row in body)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return "".join(f"\\{char}" if char in r"\|`[]*" else char for char in text)
