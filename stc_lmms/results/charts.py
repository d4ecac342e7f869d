"""Geometry of the scatter figures in SVG units: scales, ticks, Pareto front, labels that do not overlap."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from stc_lmms.results.columns import shown
from stc_lmms.results.leaderboard import Row, by_hardware

FRAME = {"width": 560, "height": 330, "left": 52, "right": 542, "top": 16, "bottom": 284}
_LONGEST, _CHARACTER, _LINE = 26, 6.3, 14  # size of labels; a wrong guess only causes an overlap
_LABEL_PLACES = (
    (9, 0, "start"),
    (-9, 0, "end"),
    (0, -15, "middle"),
    (0, 15, "middle"),
    (8, -13, "start"),
    (8, 13, "start"),
    (-8, -13, "end"),
    (-8, 13, "end"),
)


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
    """Accuracy against one cost, of comparable rows.

    Attributes:
        x_ticks, y_ticks: (position, number).
        line: the Pareto front, as SVG points.
    """

    title: str
    x_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    points: list[Point]
    line: str


def charts(rows: Sequence[Row]) -> list[Chart]:
    """The figures of comparable rows: one against tokens, one against time for each hardware."""
    found = [_chart(rows, "tokens_mean", "front_tokens", "Accuracy and tokens", "LLM tokens per frame")]
    hardware = by_hardware(rows)
    for name, same in hardware.items():
        title = "Accuracy and time" + (f": {name}" if len(hardware) > 1 else "")
        found.append(_chart(same, "frame_ms", "front_ms", title, "ms per frame, tower to prefill"))
    return [chart for chart in found if chart is not None]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers, the first at or below `low`, the last at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _chart(rows: Sequence[Row], cost: str, front: str, title: str, x_title: str) -> Chart | None:
    known = [row for row in rows if row.cells[cost] is not None]
    if not known:
        return None
    scores = [row.score.accuracy for row in known]
    across, up = ticks(0, max(row.cells[cost] for row in known) * 1.04), ticks(min(scores), max(scores))

    def scale(value: float, axis: Sequence[float], start: str, end: str) -> float:
        share = (value - axis[0]) / (axis[-1] - axis[0])
        return round(FRAME[start] + share * (FRAME[end] - FRAME[start]), 1)

    def x(value: float) -> float:
        return scale(value, across, "left", "right")

    def y(value: float) -> float:
        return scale(value, up, "bottom", "top")

    points = [
        Point(x(row.cells[cost]), y(row.score.accuracy), row, bool(row.cells[front]), _tip(row))
        for row in known
    ]
    _place_labels(points)
    ends = sorted({(point.x, point.y) for point in points if point.front})
    # steps: for each cost, the best accuracy of any run that costs no more
    steps = ends[:1]
    for (_, level), end in itertools.pairwise(ends):
        steps += [(end[0], level), end]
    x_ticks, y_ticks = (
        [(x(value), f"{value:g}") for value in across],
        [(y(value), f"{value:g}") for value in up],
    )
    return Chart(title, x_title, x_ticks, y_ticks, points, " ".join(f"{a},{b}" for a, b in steps))


def _tip(row: Row) -> str:
    cells = {key: shown(value) for key, value in row.cells.items()}
    score = f"accuracy {cells['accuracy']} %, n {cells['n']}"
    cost = f"{cells['tokens_mean']} tokens/frame, {cells['frame_ms']} ms/frame"
    return f"{cells['run']}\n{cells['method']}, {cells['model']}\n{score}\n{cost}"


def _place_labels(points: Sequence[Point]) -> None:
    """Label points where there is room; points on the front first."""
    taken = [(p.x - 6, p.y - 6, p.x + 6, p.y + 6) for p in points]
    for point in sorted(points, key=lambda p: not p.front):
        text = point.row.cells["run"]
        text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
        wide = len(text) * _CHARACTER
        for dx, dy, anchor in _LABEL_PLACES:
            left = point.x + dx - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            box = (left, point.y + dy - _LINE / 2, left + wide, point.y + dy + _LINE / 2)
            inside = box[0] >= FRAME["left"] + 2 and box[2] <= FRAME["width"]
            inside = inside and box[1] >= 0 and box[3] <= FRAME["bottom"]
            if inside and not any(
                box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken
            ):
                taken.append(box)
                point.label, point.anchor = text, anchor
                point.label_x, point.label_y = round(point.x + dx, 1), round(point.y + dy + 4, 1)
                break
