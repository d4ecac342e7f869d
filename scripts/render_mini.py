"""Render the "mini" benchmark: twelve short videos with OVO-Bench and StreamingBench annotations.

    python scripts/render_mini.py [--out tasks/mini_data]

Twelve hand-scripted scenes (coloured shapes, a sign with a number, a lamp) are the only source of truth: the
frames are drawn from them and every gold answer is computed from them. A question is refused when its answer
could not be told from frames sampled at 0.5 fps before `ceil(question time)`. No randomness touches the
annotations; the frames use one seeded generator per scene.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COLORS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 215, 40),
    "purple": (130, 50, 170),
    "orange": (245, 135, 20),
    "cyan": (40, 205, 215),
    "pink": (250, 130, 190),
}
# Each shape is a predicate over coordinates scaled so that the shape fits in [-1, 1] x [-1, 1], y downwards.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x**2 + y**2 < 0.9,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.82,
    "triangle": lambda x, y: (y < 0.8) & (abs(x) < (y + 1) * 0.55),
    "star": lambda x, y: np.hypot(x, y) * (1 + 1.3 * abs((np.arctan2(x, -y) / (0.4 * np.pi) + 0.5) % 1 - 0.5)) < 1,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.32) & (np.maximum(abs(x), abs(y)) < 0.95),
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.7) < 0.25,
    "diamond": lambda x, y: abs(x) * 1.2 + abs(y) < 1,
    "heart": lambda x, y: ((1.2 * x) ** 2 + (1.2 * y) ** 2 - 1) ** 3 + (1.2 * x) ** 2 * (1.2 * y) ** 3 < 0,
}
# 5x7 digits, one byte per row.
DIGITS = [
    np.unpackbits(np.frombuffer(bytes.fromhex(g), np.uint8)[:, None], axis=1)[:, 3:]
    for g in "0e11131519110e 040c040404040e 0e11010204081f 1f02040201110e 02060a121f0202 "
    "1f101e0101110e 0608101e11110e 1f010204080808 0e11110e11110e 0e11110f01020c".split()
]
TL, TR, BL, BR = (0.2, 0.26), (0.8, 0.26), (0.2, 0.76), (0.8, 0.76)
STILL = "standing still"
EPS = 1e-6


# ---------------------------------------------------------------- the world: what is where, and when


@dataclass(frozen=True)
class Thing:
    """A coloured shape; `path` holds (second, x, y) way points, in parts of the frame, from its appearance on."""

    color: str
    shape: str
    path: tuple[tuple[float, float, float], ...]
    until: float = math.inf
    recolor: tuple[float, str] = (math.inf, "")

    @property
    def start(self) -> float:
        return self.path[0][0]

    def seen(self, x: float) -> bool:
        return self.start <= x < self.until

    def color_at(self, x: float) -> str:
        return self.recolor[1] if x >= self.recolor[0] else self.color

    def name(self, x: float) -> str:
        return f"{self.color_at(x)} {self.shape}"

    def position(self, x: float) -> tuple[float, float]:
        times, xs, ys = zip(*self.path, strict=True)
        return float(np.interp(x, times, xs)), float(np.interp(x, times, ys))

    def region(self, x: float) -> str:
        px, py = self.position(x)
        if min(abs(px - 0.5), abs(py - 0.5)) < 0.1:
            raise ValueError(f"{self.shape} is too close to the middle at {x} s")
        return f"{'top' if py < 0.5 else 'bottom'} {'left' if px < 0.5 else 'right'}"

    def legs(self) -> list[tuple[float, float, str]]:
        """Moves as (start, end, direction)."""
        moves = []
        for (t0, x0, y0), (t1, x1, y1) in itertools.pairwise(self.path):
            if (x0, y0) != (x1, y1):
                sideways = "right" if x1 > x0 else "left"
                moves.append((t0, t1, sideways if x0 != x1 else "down" if y1 > y0 else "up"))
        return moves

    def motion(self, x: float) -> str:
        return next((f"moving {way}" for t0, t1, way in self.legs() if t0 <= x < t1), STILL)


@dataclass(frozen=True)
class Scene:
    """One video; all times are whole odd seconds, so that a 0.5 fps sampler sees every state at least twice."""

    name: str
    seconds: int
    things: tuple[Thing, ...]
    sign: tuple[tuple[float, str], ...] = ()
    lamp: tuple[tuple[float, float], ...] = ()
    base: tuple[int, int, int] = (120, 125, 130)
    size: tuple[int, int] = (128, 128)
    fps: Fraction = Fraction(8)
    shake_px: float = 0.0
    cut: float = math.inf

    def __post_init__(self):
        chains = [[t for t, _ in self.sign], [*itertools.chain(*self.lamp)]]
        chains += [[p[0] for p in t.path] for t in self.things]
        chains += [[t.start, t.recolor[0], t.until] for t in self.things]
        for chain in ([t for t in chain if t < math.inf] for chain in chains):
            if any(b - a < 4 for a, b in itertools.pairwise(chain)) or any(t and t % 2 == 0 for t in chain):
                raise ValueError(f"{self.name}: {chain} has a state under 4 s or a change on an even second")
            if max(chain, default=0) > self.seconds - 3:
                raise ValueError(f"{self.name}: {chain} leaves less than 3 s for its last state")
        if len({t.shape for t in self.things}) < len(self.things):
            raise ValueError(f"{self.name}: two things have the same shape")

    def thing(self, shape: str, x: float) -> Thing:
        """The thing of that shape, which must have appeared by second `x`."""
        return next(t for t in self.things if t.shape == shape and t.start <= x)

    def here(self, shape: str, x: float) -> Thing:
        return next(t for t in self.visible(x) if t.shape == shape)

    def visible(self, x: float) -> list[Thing]:
        return [t for t in self.things if t.seen(x)]

    def number(self, x: float) -> str:
        return [text for t, text in self.sign if t <= x][-1]

    def lit(self, x: float) -> bool:
        return any(on <= x < off for on, off in self.lamp)

    def events(self) -> list[tuple[float, str]]:
        """Everything that happens after second 0, as (second, sentence), in time order."""
        found = [(t, f"the sign changed to {text}") for t, text in self.sign]
        found += [(pair[k], f"the lamp was switched {('on', 'off')[k]}") for pair in self.lamp for k in (0, 1)]
        for t in self.things:
            found += [(t.start, f"a {t.name(t.start)} came up"), (t.until, f"the {t.shape} vanished")]
            found += [(t.recolor[0], f"the {t.shape} turned {t.recolor[1]}")]
            found += [(t0, f"the {t.shape} began to move {way}") for t0, _, way in t.legs()]
            found += [(t1, f"the {t.shape} came to a stop") for _, t1, _ in t.legs()]
        return sorted((t, text) for t, text in found if 0 < t < math.inf)


def still(color: str, shape: str, where: tuple[float, float], start: float, **rest) -> Thing:
    return Thing(color, shape, ((start, *where),), **rest)


def count_up(first: int, step: int, *times: float) -> tuple[tuple[float, str], ...]:
    return tuple((t, str(first + i * step)) for i, t in enumerate((0, *times)))


SCENES = (
    Scene(
        "sample_1_real", 32, sign=count_up(3, 1, 7, 13, 19, 25), base=(118, 128, 122), things=(
            still("red", "circle", TL, 0), still("blue", "square", TR, 5, until=21),
            Thing("yellow", "star", ((9, *BL), (15, *BL), (23, *BR))))),
    Scene(
        "sample_2_real", 32, lamp=((3, 7), (11, 15), (21, 25)), base=(104, 100, 120), things=(
            still("green", "triangle", BL, 0, recolor=(17, "cyan")), still("purple", "ring", BR, 9),
            still("orange", "diamond", TR, 19))),
    Scene(
        "sample_3_real", 30, sign=count_up(8, -1, 7, 13, 19), base=(140, 132, 118), shake_px=2.0, things=(
            still("red", "heart", TL, 0, until=15),
            Thing("blue", "cross", ((3, *BR), (7, *BR), (11, *TR), (15, *TR), (19, *BR), (23, *BR), (27, *BL))))),
    Scene(
        "sample_4_real", 36, sign=((0, "12"), (17, "47"), (29, "53")), base=(120, 110, 104), cut=17, things=(
            still("yellow", "square", TL, 0, until=17), still("green", "star", BR, 5, until=17),
            still("pink", "circle", TL, 17), still("blue", "triangle", BL, 23))),
    Scene(
        "sample_5_real", 24, sign=count_up(1, 2, 5, 11, 17), base=(128, 136, 140), fps=Fraction(30000, 1001), things=(
            Thing("purple", "diamond", ((0, *BL), (7, *BL), (11, *BR), (15, *BR), (19, *BL))),
            still("orange", "ring", TR, 3, until=21))),
    Scene(
        "sample_6_real", 40, lamp=((7, 11), (15, 19), (25, 29), (33, 37)), base=(98, 106, 110), size=(192, 128), things=(
            still("cyan", "circle", TL, 0), still("red", "square", BL, 5), still("green", "heart", BR, 13),
            still("yellow", "triangle", TR, 21, until=31))),
    Scene(
        "sample_7_sqa", 30, lamp=((21, 25),), base=(112, 120, 108), size=(128, 192), things=(
            Thing("blue", "star", ((0, *BL), (9, *BL), (17, *TL))), still("pink", "cross", BR, 5),
            still("orange", "square", TR, 19))),
    Scene(
        "sample_8_proactive", 28, sign=count_up(20, 5, 7, 13, 19), lamp=((9, 17),), base=(110, 104, 112), things=(
            still("red", "ring", BL, 0), still("green", "diamond", BR, 11))),
    Scene(
        "sample_9_Scene_Understanding_1-25", 30, base=(126, 120, 128), things=(
            still("purple", "heart", TL, 0, until=21), still("yellow", "circle", TR, 7),
            still("cyan", "square", BL, 13))),
    Scene(
        "sample_10_Multimodal_Alignment", 28, sign=((0, "4"), (9, "9"), (17, "2")), lamp=((11, 15),),
        base=(106, 114, 122), things=(still("orange", "triangle", BL, 0), still("pink", "ring", BR, 5))),
    Scene(
        "sample_11_Misleading_Context_Understanding", 26, base=(124, 124, 112), things=(
            still("red", "star", TL, 0, recolor=(11, "blue")),
            Thing("green", "cross", ((5, *BR), (15, *BR), (19, *BL))))),
    Scene(
        "sample_12_Source_Discrimination", 34, base=(116, 112, 118), things=(
            Thing("cyan", "diamond", ((0, *TL), (5, *TL), (11, *TR), (21, *TR), (27, *TL))),
            Thing("yellow", "heart", ((3, *BL), (13, *BL), (19, *BR))))),
)  # fmt: skip


# ---------------------------------------------------------------- drawing


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Bilinear noise with unit spread, one random value every `cell` pixels."""
    grid = rng.standard_normal((height // cell + 2, width // cell + 2))
    (y, fy), (x, fx) = (np.divmod(np.arange(n) / cell, 1) for n in (height, width))
    y, x, fy = y.astype(int), x.astype(int), fy[:, None]
    rows = grid[y] * (1 - fy) + grid[y + 1] * fy
    return rows[:, x] * (1 - fx) + rows[:, x + 1] * fx


def draw_room(rng: np.random.Generator, scene: Scene, margin: int) -> np.ndarray:
    """Textured static background, `margin` pixels larger than the frame on every side."""
    width, height = (n + 2 * margin for n in scene.size)
    noise = sum(amp * smooth_noise(rng, height, width, cell) for amp, cell in ((9, 40), (6, 12), (2, 2)))
    room = np.array(scene.base) + rng.normal(0, 4, 3) + noise[..., None]
    for _ in range(3):
        y, x = rng.integers(0, height * 3 // 4), rng.integers(0, width * 3 // 4)
        room[y : y + height // 4, x : x + width // 3] += rng.normal(0, 14)
    return room


def paste(frame: np.ndarray, shape: str, center: tuple[float, float], radius: float, color) -> None:
    """Blend an antialiased shape (3 x 3 samples per pixel) into `frame` in place."""
    (x0, y0), (x1, y1) = (
        [min(max(int(c + sign * (radius + 2)), 0), n) for c, n in zip(center, frame.shape[1::-1], strict=True)]
        for sign in (-1, 1)
    )
    ys, xs = (
        (np.arange(3 * a, 3 * b) / 3 + 1 / 6 - c) / radius for a, b, c in ((y0, y1, center[1]), (x0, x1, center[0]))
    )
    mask = SHAPES[shape](xs[None, :], ys[:, None]).reshape(y1 - y0, 3, x1 - x0, 3).mean(axis=(1, 3))[..., None]
    frame[y0:y1, x0:x1] += mask * (np.asarray(color) - frame[y0:y1, x0:x1])


def paste_sign(frame: np.ndarray, text: str, center: tuple[float, float]) -> None:
    """White panel with dark digits in place."""
    glyphs = np.hstack([np.pad(DIGITS[int(c)], 1) for c in text])
    panel = np.kron(np.pad(glyphs, 1), np.ones((4 if len(text) == 1 else 3,) * 2))[..., None]
    y, x = (round(c - n / 2) for c, n in zip(center[::-1], panel.shape, strict=False))
    frame[y : y + panel.shape[0], x : x + panel.shape[1]] = 235 - 215 * panel


def frames(scene: Scene) -> Iterator[np.ndarray]:
    """Yield the raw RGB frames, uint8 [height, width, 3]."""
    rng = np.random.default_rng(1 + SCENES.index(scene))
    (width, height), margin = scene.size, 6
    rooms = [draw_room(rng, scene, margin) for _ in range(2)]
    rooms[1] = rooms[1][..., ::-1] * 0.8 + 12
    sway, light = rng.uniform(0, 2 * np.pi, (2, 2)), np.mgrid[:height, :width] / min(scene.size)
    glow = 26 * np.exp(-3 * np.hypot(light[1] - 0.5 * width / height, light[0] - 0.6))[..., None] + 14
    for i in range(math.ceil(scene.seconds * scene.fps)):
        t = float(i / scene.fps)
        dx, dy = scene.shake_px * (np.sin(sway[0] + 2.1 * t) + np.sin(sway[1] + 5.3 * t)) / 1.5
        x, y = margin + round(dx), margin + round(dy)
        frame = rooms[t >= scene.cut][y : y + height, x : x + width].copy()

        def place(px: float, py: float, at=(margin - x, margin - y)) -> tuple[float, float]:
            return px * width + at[0], py * height + at[1]

        if scene.sign:
            paste_sign(frame, scene.number(t), place(0.5, 0.2))
        if scene.lamp:
            frame += glow * scene.lit(t)
            paste(frame, "square", place(0.5, 0.6 + 11 / height), 5, (60, 60, 64))
            paste(frame, "circle", place(0.5, 0.6), 8.5, (40, 40, 44))
            paste(frame, "circle", place(0.5, 0.6), 7, (255, 245, 170) if scene.lit(t) else (92, 92, 96))
        for thing in scene.visible(t):
            color = np.array(COLORS[thing.color_at(t)])
            paste(frame, thing.shape, place(*thing.position(t)), 15, color * 0.35)
            paste(frame, thing.shape, place(*thing.position(t)), 12.5, color)
        frame += (3 * np.sin(0.9 * t) + 2 * np.sin(1.7 * t + 4 * light[1]))[..., None] + rng.normal(0, 2, frame.shape)
        yield frame.clip(0, 255).astype(np.uint8)


def encode(scene: Scene, path: Path) -> None:
    """Write the scene as H.264 (single thread: the bytes repeat with the same x264)."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=scene.fps)
        stream.width, stream.height, stream.pix_fmt = *scene.size, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "25", "preset": "slower", "g": str(round(12 * scene.fps)), "threads": "1"}
        for array in frames(scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())


# ---------------------------------------------------------------- questions: (question, gold, wrong options)

UNABLE = "Unable to answer"
REGIONS = ["top left", "top right", "bottom left", "bottom right", "center"]
MOTIONS = [STILL, "moving right", "moving left", "moving up", "moving down"]
CAUSES = ["the sign was taken down", "the camera came closer", "a curtain was drawn"]


def own(scene: Scene, x: float, field: str) -> list[str]:
    """Values that the scene itself uses by second `x` (the hard wrong options), then all others."""
    values = [v for t in scene.things if t.start <= x for v in (getattr(t, field), t.recolor[1]) if v]
    return [v for v in values if field == "color" or v in SHAPES] + list(COLORS if field == "color" else SHAPES)


def arrivals(scene: Scene, x: float) -> list[str]:
    return [t.shape for t in sorted(scene.things, key=lambda t: t.start) if t.start <= x]


def motion(scene: Scene, x: float, shape: str) -> str:
    """Motion that two frames 2 s apart can show."""
    thing = scene.here(shape, x)
    if not thing.seen(x - 1.5) or thing.motion(x) != thing.motion(x - 1.5):
        raise ValueError(f"{scene.name}: too early to tell how the {shape} moves at {x} s")
    return thing.motion(x)


def next_number(scene: Scene, x: float) -> str:
    """The coming number, once two regular steps were seen."""
    shown, (coming, *_) = [int(n) for t, n in scene.sign if t <= x], [n for t, n in scene.sign if t > x]
    if len(shown) < 3 or len(set(np.diff([*shown, int(coming)]))) > 1:
        raise ValueError(f"{scene.name}: the next number cannot be foreseen at {x} s")
    return coming


def numbers(scene: Scene, x: float) -> list[str]:
    return [n for _, n in scene.sign] + [str(int(scene.number(x)) + k) for k in (2, 3, 4, 6)]


def looks(scene: Scene, x: float, shift: int = 0) -> str:
    """All visible things in words; `shift` moves the colors on by that many things (false when not 0)."""
    things = scene.visible(x)
    return " and ".join(f"a {things[(i + shift) % len(things)].color_at(x)} {t.shape}" for i, t in enumerate(things))


def first_order(scene: Scene, x: float) -> tuple[str, list[str]]:
    names = [f"{t.color} {t.shape}" for t in sorted(scene.things, key=lambda t: t.start) if t.start <= x][-3:]
    lines = ["First the {}, then the {}, then the {} came up".format(*order) for order in itertools.permutations(names)]
    return lines[0], lines[:0:-1]


def latest(scene: Scene, x: float) -> str:
    *_, (before, _), (at, text) = [(-1.0, ""), *(event for event in scene.events() if event[0] <= x)]
    if before == at:
        raise ValueError(f"{scene.name}: two events at {at} s")
    return text


# Kind of question -> (text, gold, wrong options in order of preference), as seen at second `x`.
ASKS: dict[str, Callable[..., tuple[str, str, list[str]]]] = {
    "number": lambda s, x: ("Which number is on the sign now?", s.number(x), numbers(s, x)),
    "next number": lambda s, x: ("Which number will the sign turn to next?", next_number(s, x), numbers(s, x)),
    "first number": lambda s, x: ("Which number did the sign start with?", s.number(0), numbers(s, x)),
    "number at light": lambda s, x: (
        "Which number was on the sign when the lamp came on?", s.number(min(t for t, _ in s.lamp)), numbers(s, x)),
    "color": lambda s, x, shape: (
        f"In which color is the {shape} now?", s.here(shape, x).color_at(x), own(s, x, "color")),
    "first color": lambda s, x, shape: (
        f"In which color did the {shape} come up?", s.thing(shape, x).color, own(s, x, "color")),
    "shape": lambda s, x, color: (
        f"Which shape is {color} now?", next(t.shape for t in s.visible(x) if t.color_at(x) == color), own(s, x, "shape")),
    "place": lambda s, x, shape: (f"In which corner is the {shape} now?", s.here(shape, x).region(x), REGIONS),
    "last place": lambda s, x, shape: (
        f"In which corner was the {shape} until it vanished?", s.thing(shape, x - 4).region(s.gone(shape, x)), REGIONS),
    "no place": lambda s, x, shape: (f"In which corner was the {shape}?", s.never(shape), REGIONS),
    "no color": lambda s, x, shape: (f"What color was the {shape}?", s.never(shape), own(s, x, "color")),
    "motion": lambda s, x, shape: (f"How does the {shape} move now?", motion(s, x, shape), MOTIONS),
    "mover": lambda s, x: (
        "Which shape is on the move now?", next(t.shape for t in s.visible(x) if motion(s, x, t.shape) != STILL),
        own(s, x, "shape")),
}
