"""Fill docs/demo-model.md and the model card, and draw the figures, from recorded results of the demo model.

python scripts/demo_results.py          write the page and the figures
python scripts/demo_results.py --check  exit with status 1 if they are not up to date

The results are those of `benchmarks/demo_model.sh`, by `stc-lmms compare` and `training.demo.evaluate`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from blocks import fill

from stc_lmms.results.charts import ticks
from stc_lmms.results.leaderboard import pareto
from stc_lmms.results.paired import Difference, paired_difference
from training.demo.questions import FAMILIES

REPO = Path(__file__).resolve().parents[1]
CARD = REPO / "stc_lmms" / "demo" / "checkpoints" / "stream_world" / "README.md"
RESULTS, PAGE = REPO / "benchmarks" / "results" / "demo", REPO / "docs" / "demo-model.md"
SOLVED = 0.75  # a family that the text alone answers this well says nothing about vision
MAIN = 12  # the budget shown in the heat map


@dataclass(frozen=True)
class Grid:
    """The output of one `stc-lmms compare`."""

    rows: dict[str, dict]
    questions: list[tuple[str, str, str, str]]  # task, video, id, sub-task
    scores: dict[str, list[float]]
    failed: tuple[dict, ...] = ()  # rows without a result

    @classmethod
    def read(cls, name: str) -> "Grid":
        """The grid in a folder of the results."""
        folder = RESULTS / name
        rows = json.loads((folder / "compare.json").read_text("utf-8"))["rows"]
        scores = json.loads((folder / "scores.json").read_text("utf-8"))
        return cls(
            {row["name"]: row for row in rows if "n" in row},
            # both benchmarks ask about the same files
            [(task, Path(video).name, *rest) for task, video, *rest in scores["questions"]],
            scores["scores"],
            tuple(row for row in rows if "n" not in row),
        )

    @cached_property
    def _by_family(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i, (task, *_, subtask) in enumerate(self.questions):
            found.setdefault(subtask if task.startswith("ovobench") else "StreamingBench", []).append(i)
        return found

    def in_order(self, name: str, questions: list[tuple[str, str, str, str]]) -> list[float]:
        """Scores of a configuration, in the order of the given questions of another grid."""
        scores = dict(zip(self.questions, self.scores[name], strict=True))
        return [scores[question] for question in questions]

    def family(self, name: str, family: str) -> float:
        """Accuracy of a configuration in a family, in percent."""
        own = self._by_family[family]
        return 100 * sum(self.scores[name][i] for i in own) / len(own)

    def mean(self, name: str, families: tuple[str, ...], base: str | None = None) -> Difference:
        """Accuracy pooled over families, or its difference to that of another configuration."""
        chosen = [i for family in families for i in self._by_family[family]]
        other = self.scores[base] if base else [0.0] * len(self.questions)
        return paired_difference([(self.questions[i][1], self.scores[name][i], other[i]) for i in chosen])


def evaluation(name: str) -> dict:
    """A recorded output of `training.demo.evaluate`."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def headline() -> tuple[str, ...]:
    """The families that cannot be answered without the video."""
    rows = evaluation("arrays")["accuracy"]
    return tuple(f for f in FAMILIES if max(rows["no video"][f], rows["text alone"][f]) < SOLVED)


def families_block() -> str:
    """Accuracy per family: dense, without video and guessed, on arrays and on encoded videos."""
    arrays, videos = evaluation("arrays"), evaluation("mp4")
    rows = arrays["accuracy"] | {"dense, from H.264": videos["accuracy"]["method=none"]}
    names = {
        "method=none": "dense",
        "method=stc": "`stc`, 12 tokens",
        "method=stc,positions=original": "the same, `positions=original`",
    }
    kept = headline()
    lines = [
        f"{arrays['videos']} videos of {arrays['frames']} frames, {sum(arrays['questions'].values())} "
        "questions, accuracy in percent:",
        "",
        "| | headline mean | mean of 12 | " + " | ".join(FAMILIES) + " |",
        "|---|" + "---|" * (len(FAMILIES) + 2),
    ]
    for name, row in rows.items():
        means = (_mean([row[f] for f in kept]), _mean([row[f] for f in FAMILIES]))
        cells = [f"{100 * value:.1f}" for value in means] + [f"{100 * row[f]:.0f}" for f in FAMILIES]
        lines.append(f"| {names.get(name, name)} | " + " | ".join(cells) + " |")
    left = [family for family in FAMILIES if family not in kept]
    lines += [
        "",
        f"Not in the headline mean: {', '.join(left) or 'none'}, which can be answered without the video.",
    ]
    return "\n".join(lines)


def mini_block() -> str:
    """Accuracy per family on the mini benchmarks: guessed from the text, dense, and STC."""
    grid, text = Grid.read("methods"), evaluation("text_only")
    stc = next(n for n, row in grid.rows.items() if row["method"] == "stc" and row["budget"] == MAIN)
    kept, groups = headline(), (*FAMILIES, "StreamingBench")
    rows = {
        "text alone": {g: 100 * text[g]["text_alone"] for g in groups},
        "one answer for all": {g: 100 * text[g]["one_answer"] for g in groups},
        "dense": {g: grid.family("none", g) for g in groups},
        f"`stc`, {MAIN} tokens": {g: grid.family(stc, g) for g in groups},
    }
    lines = ["| | headline mean | " + " | ".join(groups) + " |", "|---|" + "---|" * (len(groups) + 1)]
    for name, row in rows.items():
        cells = [f"{_mean([row[f] for f in kept]):.1f}", *(f"{row[g]:.0f}" for g in groups)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def methods_block() -> str:
    """Every method at every budget."""
    grid, kept = Grid.read("methods"), headline()
    order = sorted(grid.rows, key=lambda name: (-_budget(grid, name), -grid.mean(name, kept).mean))
    lines = [
        f"{len(grid.questions)} questions on {len({q[1] for q in grid.questions})} videos "
        "(`ovobench_stream_mini`, `streamingbench_mini`):",
        "",
        "| method | budget | tokens/frame, most | headline mean | 95 % | to dense | 95 % | StreamingBench |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in order:
        lines.append(
            f"| `{grid.rows[name]['method']}` | {_shown_budget(grid, name)} | {_cells(grid, name, kept)} |"
        )
    return "\n".join(lines + _omitted(grid))


def cacher_block() -> str:
    """STC-Cacher by interval and update ratio."""
    return _varied("cacher", ("cache_interval", "update_ratio"), ("interval", "update ratio"))


def choices_block() -> str:
    """The pruner's history, and which blocks of the cacher select tokens."""
    return _varied("choices", ("history", "selection"), ("history", "selection"))


def adaptive_block() -> str:
    """Reference frames at scene cuts, by threshold."""
    return _varied("adaptive", ("cut_similarity",), ("cut similarity",))


def positions_block() -> str:
    """Kept tokens at their positions in the dense stream, against consecutive positions."""
    if not (RESULTS / "positions").exists():
        return "Not recorded yet."
    closed, original, kept = Grid.read("methods"), Grid.read("positions"), headline()
    lines = [
        "| method | budget | closed | original | difference | 95 % | original to dense | 95 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    both = Grid(
        original.rows, original.questions, original.scores | {"closed": []}
    )  # one grid, so that the two can be paired
    for name, row in original.rows.items():
        if name == "none":
            continue
        both.scores["closed"] = closed.in_order(name, original.questions)
        gap, to_dense = both.mean(name, kept, "closed"), both.mean(name, kept, "none")
        cells = [f"{both.mean(each, kept).mean:.1f}" for each in ("closed", name)]
        cells += [f"{gap.mean:+.1f}", _interval(gap, "+"), f"{to_dense.mean:+.1f}", _interval(to_dense, "+")]
        lines.append(f"| `{row['method']}` | {_shown_budget(original, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines + _omitted(original))


def spread_block() -> str:
    """Dense accuracy of the shipped model and of every other training run."""
    runs = sorted(RESULTS.glob("run_*.json"))
    if not runs:
        return "Not recorded yet."
    names = {path.stem.removeprefix("run_").replace("_", " "): path.stem for path in runs}
    again = {"shipped (seed 0)": names.pop("shipped")} | names
    kept = headline()
    lines = ["| training run | headline mean | mean of 12 | lowest family |", "|---|---|---|---|"]
    for run, file in again.items():
        row = evaluation(file)["accuracy"]["method=none"]
        low = min(kept, key=row.get)
        means = 100 * _mean([row[f] for f in kept]), 100 * _mean([row[f] for f in FAMILIES])
        lines.append(f"| {run} | {means[0]:.1f} | {means[1]:.1f} | {low} {100 * row[low]:.0f} |")
    return "\n".join(lines)


def curve_block() -> str:
    """Accuracy on the training questions during training."""
    text = (RESULTS / "curve.jsonl").read_text("utf-8")
    # a run that was killed and resumed has logged some steps twice
    rows = list({row["step"]: row for row in map(json.loads, text.splitlines())}.values())
    shown = [row for row in rows if row["step"] % 500 == 0 or row is rows[-1]]
    lines = ["| step | " + " | ".join(FAMILIES) + " |", "|---|" + "---|" * len(FAMILIES)]
    for row in shown:
        cells = [f"{100 * row[family]:.0f}" if family in row else "-" for family in FAMILIES]
        lines.append(f"| {row['step']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _varied(folder: str, names: tuple[str, ...], headings: tuple[str, ...]) -> str:
    if not (RESULTS / folder).exists():
        return "Not recorded yet."
    grid, kept = Grid.read(folder), headline()
    lines = [
        f"| method | {' | '.join(headings)} | recomputed % | headline mean | 95 % | to dense | 95 % |",
        "|---|" + "---|" * (len(headings) + 5),
    ]
    for name, row in grid.rows.items():
        values = [row["varied"].get(each, "-") for each in names]
        cells = _cells(grid, name, kept).split(" | ")[1:5]
        again = f"{row['recomputed']:.1f}"
        lines.append(f"| `{row['method']}` | " + " | ".join([*values, again, *cells]) + " |")
    return "\n".join(lines + _omitted(grid))


def _omitted(grid: Grid) -> list[str]:
    """A sentence that names configurations without a row, with the recorded reasons, if there are any."""
    omitted = []
    for row in grid.failed:
        given = [f"{row['budget']} tokens"] if row["budget"] else []
        given += [f"{name}={value}" for name, value in row["varied"].items()]
        name = f"`{row['method']}`" + (f" at {', '.join(given)}" if given else "")
        why = row["error"] if "error" in row else row["trouble"]  # its name until version 0.1.0
        omitted.append(f"{name} ({'skipped' if row['skipped'] else 'failed'}: {why})")
    return ["", f"Not in the table: {'; '.join(omitted)}."] if omitted else []


def _cells(grid: Grid, name: str, kept: tuple[str, ...]) -> str:
    row, own = grid.rows[name], grid.mean(name, kept)
    cells = [f"{row['llm_tokens_mean']:.1f}, {row['llm_tokens_max']}", f"{own.mean:.1f}", _interval(own, "")]
    if name == "none":
        cells += ["-", "-"]
    else:
        gap = grid.mean(name, kept, "none")
        cells += [f"{gap.mean:+.1f}", _interval(gap, "+")]
    streaming = "StreamingBench" in {_kind(q) for q in grid.questions}
    return " | ".join([*cells, f"{grid.family(name, 'StreamingBench'):.1f}" if streaming else "-"])


def _kind(question: tuple[str, str, str, str]) -> str:
    return "OVO-Bench" if question[0].startswith("ovobench") else "StreamingBench"


def _interval(found: Difference, sign: str) -> str:
    return f"{found.low:{sign}.1f} to {found.high:{sign}.1f}"


def _budget(grid: Grid, name: str) -> float:
    return grid.rows[name]["budget"] or grid.rows[name]["llm_tokens_mean"]


def _shown_budget(grid: Grid, name: str) -> str:
    return "-" if grid.rows[name]["budget"] is None else str(grid.rows[name]["budget"])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


# Figures ------------------------------------------------------------------------------------------------

STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#444}.name{fill:#111}.rule{stroke:#ddd}"
    ".method{fill:none;stroke:#888;stroke-width:1.2}"
    ".front{fill:none;stroke:#0b6e4f;stroke-width:1.5;stroke-dasharray:5 4}"
    ".point{fill:#fff;stroke:#888;stroke-width:1.6}.on{fill:#0b6e4f;stroke:#0b6e4f}</style>"
)


def pareto_figure() -> str:
    """Headline accuracy against tokens per frame: a line for each method through its budgets."""
    grid, kept = Grid.read("methods"), headline()
    wide, high, left, right, top, bottom = 760, 460, 48, 200, 24, 44
    points = {n: (row["llm_tokens_mean"], grid.mean(n, kept).mean) for n, row in grid.rows.items()}
    front = {n for n, on in zip(points, pareto(list(points.values())), strict=True) if on}
    lines: dict[str, list[str]] = {}
    for name in sorted(points, key=lambda n: points[n][0]):
        if grid.rows[name]["budget"] is not None:
            lines.setdefault(grid.rows[name]["method"], []).append(name)
    across = ticks(*(end(points[n][0] for names in lines.values() for n in names) for end in (min, max)))
    up = ticks(min(y for _, y in points.values()), max(y for _, y in points.values()))

    def place(name: str) -> tuple[float, float]:
        tokens, accuracy = points[name]
        return _scaled(tokens, across, left, wide - right), _scaled(accuracy, up, high - bottom, top)

    parts = []
    for value in up:
        y = _scaled(value, up, high - bottom, top)
        parts.append(f'<line class="rule" x1="{left}" x2="{wide - right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for value in across:
        x = _scaled(value, across, left, wide - right)
        parts.append(f'<text x="{x}" y="{high - bottom + 18}" text-anchor="middle">{value:g}</text>')
    about = f"LLM tokens per frame, mean (dense: {points['none'][0]:g}); filled: none is better with fewer"
    parts.append(f'<text x="{left}" y="{high - 6}">{about}</text>')
    parts.append(f'<text x="{left}" y="{top - 10}">headline accuracy %</text>')
    dense = _scaled(points["none"][1], up, high - bottom, top)
    parts.append(f'<line class="front" x1="{left}" x2="{wide - right}" y1="{dense}" y2="{dense}"/>')
    ends = {method: place(names[-1]) for method, names in lines.items()} | {"dense": (wide - right, dense)}
    for method, names in lines.items():
        path = " ".join(f"{x},{y}" for x, y in map(place, names))
        parts.append(f'<polyline class="method" points="{path}"/>')
        for x, y in map(place, names):
            on = " on" if any(place(n) == (x, y) for n in front & set(names)) else ""
            parts.append(
                f'<circle class="point{on}" cx="{x}" cy="{y}" r="4"><title>{method}</title></circle>'
            )
    below = 0.0
    for method in sorted(ends, key=lambda m: ends[m][1]):
        x, y = ends[method]
        below = max(y + 4, below + 14)  # names do not overlap
        parts.append(f'<path class="rule" d="M{x + 6},{y} L{wide - right + 34},{below - 4}"/>')
        parts.append(f'<text class="name" x="{wide - right + 38}" y="{below}">{method}</text>')
    return _svg(wide, high, parts)


def _scaled(value: float, marks: Sequence[float], first: float, last: float) -> float:
    """Coordinate of a value on an axis whose marks span `first` to `last`."""
    return round(first + (value - marks[0]) / (marks[-1] - marks[0]) * (last - first), 1)


def families_figure() -> str:
    """Accuracy of every method at the main budget, per family."""
    grid = Grid.read("methods")
    names = [n for n, row in grid.rows.items() if row["budget"] in (None, MAIN)]
    names.sort(key=lambda name: -grid.mean(name, headline()).mean)
    left, top, cell, line = 150, 26, 46, 24
    wide, high = left + cell * len(FAMILIES) + 8, top + line * len(names) + 8
    parts = [
        f'<text x="{left + cell * (i + 0.5)}" y="{top - 8}" text-anchor="middle">{family}</text>'
        for i, family in enumerate(FAMILIES)
    ]
    for j, name in enumerate(names):
        at = top + line * j
        parts.append(f'<text class="name" x="{left - 8}" y="{at + 16}" text-anchor="end">{name}</text>')
        for i, family in enumerate(FAMILIES):
            value = grid.family(name, family)
            share = max(0.0, (value - 20) / 80)
            box = f'x="{left + cell * i}" y="{at}" width="{cell - 2}" height="{line - 2}"'
            ink = ' style="fill:#fff"' if share > 0.6 else ""
            where = f'x="{left + cell * (i + 0.5) - 1}" y="{at + 15}" text-anchor="middle"'
            parts.append(f'<rect {box} fill="#0b6e4f" fill-opacity="{share:.2f}"/>')
            parts.append(f"<text {where}{ink}>{value:.0f}</text>")
    return _svg(wide, high, parts)


def _svg(wide: float, high: float, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">'
    )
    back = f'<rect width="{wide}" height="{high}" fill="#fff"/>'
    return "\n".join([head, STYLE, back, *parts, "</svg>", ""])


BLOCKS = {
    "families": families_block,
    "mini": mini_block,
    "methods": methods_block,
    "cacher": cacher_block,
    "choices": choices_block,
    "adaptive": adaptive_block,
    "positions": positions_block,
    "curve": curve_block,
    "spread": spread_block,
}
FIGURES = {"demo-pareto.svg": pareto_figure, "demo-families.svg": families_figure}


def build() -> dict[Path, str]:
    """All generated files with their content."""
    pages = {PAGE: fill(PAGE, BLOCKS), CARD: fill(CARD, {"families": families_block})}
    return pages | {PAGE.parent / name: make() for name, make in FIGURES.items()}


def main() -> int:
    files = build()
    if "--check" in sys.argv[1:]:
        return int(any(not p.exists() or p.read_text("utf-8") != text for p, text in files.items()))
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
