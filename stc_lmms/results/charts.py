"""Geometry of the scatter figures in SVG units: scales, ticks, Pareto line, labels that do not overlap."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stc_lmms.results.columns import shown
from stc_lmms.results.leaderboard import Row, by_hardware

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 16, 46
_CHARACTER, _LINE = 6.3, 14  # size of labels in SVG units; a wrong guess only causes an overlap
_LONGEST = 26


@dataclass(frozen=True)
class Tick:
    """Where an axis has a number."""

    at: float
    text: str


@dataclass
class Point:
    """One row in a figure; without a `label` when there was no room for it."""

    x: float
    y: float
    row: Row
    front: bool
    tip: str
    label: str = ""
    label_x: float = 0.0
    label_y: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True)
class Chart:
    """Accuracy against one cost, of rows that may be compared."""

    title: str
    x_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    points: list[Point]
    line: str  # of the Pareto front, as SVG points
    frame: dict[str, int] = field(
        default_factory=lambda: {
            "width": WIDTH,
            "height": HEIGHT,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "top": TOP,
            "bottom": HEIGHT - BOTTOM,
        }
    )


def charts(rows: Sequence[Row]) -> list[Chart]:
    """The figures of comparable rows: one against tokens, one against time for each hardware."""
    found = [_chart(rows, "tokens_mean", "front_tokens", "Accuracy and tokens", "LLM tokens per frame")]
    hardware = by_hardware(rows)
    for name, same in hardware.items():
        title = "Accuracy and time" + (f": {name}" if len(hardware) > 1 else "")
        found.append(_chart(same, "frame_ms", "front_ms", title, "ms per frame, tower to prefill"))
    return [chart for chart in found if chart is not None]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that reach around `low` and `high`, about `wanted` of them."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _chart(rows: Sequence[Row], cost: str, front: str, title: str, x_title: str) -> Chart | None:
    known = [row for row in rows if row.cells[cost] is not None]
    if not known:
        return None
    costs, scores = [row.cells[cost] for row in known], [row.score.accuracy for row in known]
    across, up = ticks(0, max(costs) * 1.04), ticks(min(scores), max(scores))

    def x(value: float) -> float:
        return round(LEFT + (value - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM), 1)

    points = [
        Point(x(c), y(row.score.accuracy), row, bool(row.cells[front]), _tip(row))
        for row, c in zip(known, costs, strict=True)
    ]
    _label(points)
    ends = sorted({(point.x, point.y) for point in points if point.front})
    # steps: for each cost, the best accuracy of any run that costs no more
    corners = [corner for before, after in itertools.pairwise(ends) for corner in _step(before, after)]
    return Chart(
        title,
        x_title,
        [Tick(x(value), f"{value:g}") for value in across],
        [Tick(y(value), f"{value:g}") for value in up],
        points,
        " ".join(f"{a},{b}" for a, b in (ends[:1] + corners)),
    )


def _step(before: tuple[float, float], after: tuple[float, float]) -> list[tuple[float, float]]:
    return [(after[0], before[1]), after]


def _tip(row: Row) -> str:
    cells: dict[str, Any] = row.cells
    score = f"accuracy {shown(cells['accuracy'])} %, n {shown(cells['n'])}"
    cost = f"{shown(cells['tokens_mean'])} tokens/frame, {shown(cells['frame_ms'])} ms/frame"
    return f"{cells['run']}\n{cells['method']}, {cells['model']}\n{score}\n{cost}"


def _label(points: Sequence[Point]) -> None:
    """Label points where there is room; points on the front first."""
    taken = [(p.x - 6, p.y - 6, p.x + 6, p.y + 6) for p in points]
    for point in sorted(points, key=lambda p: not p.front):
        text = point.row.cells["run"]
        text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
        wide = len(text) * _CHARACTER
        for dx, dy, anchor in _PLACES:
            left = point.x + dx - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            box = (left, point.y + dy - _LINE / 2, left + wide, point.y + dy + _LINE / 2)
            inside = box[0] >= LEFT + 2 and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                point.label, point.anchor = text, anchor
                point.label_x, point.label_y = round(point.x + dx, 1), round(point.y + dy + 4, 1)
                break


_PLACES = (
    (9, 0, "start"),
    (-9, 0, "end"),
    (0, -15, "middle"),
    (0, 15, "middle"),
    (8, -13, "start"),
    (8, 13, "start"),
    (-8, -13, "end"),
    (-8, 13, "end"),
)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
