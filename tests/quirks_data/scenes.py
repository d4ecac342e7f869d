"""The world of the hand-made benchmark: colored shapes, a sign with a number, a lamp, and their frames.

`storyboard.json` scripts the scenes. What is where, and when, is told by `Scene` and `Thing`;
`frames` draws it, with one seeded generator per scene. `render.py` asks about it.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

COLORS = {
    "red": (214, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220), "yellow": (240, 215, 40),
    "purple": (130, 50, 170), "orange": (245, 135, 20), "cyan": (40, 205, 215), "pink": (250, 130, 190),
}  # fmt: skip
# Each shape is a predicate over coordinates scaled so that the shape fits in [-1, 1] x [-1, 1], y downwards.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x**2 + y**2 < 0.9,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.82,
    "triangle": lambda x, y: (y < 0.8) & (abs(x) < (y + 1) * 0.55),
    "star": lambda x, y: np.hypot(x, y) * (1 + 1.3 * abs((0.796 * np.arctan2(x, -y) + 0.5) % 1 - 0.5)) < 1,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.32) & (np.maximum(abs(x), abs(y)) < 0.95),
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.7) < 0.25,
    "diamond": lambda x, y: abs(x) * 1.2 + abs(y) < 1,
    "heart": lambda x, y: ((1.2 * x) ** 2 + (1.2 * y) ** 2 - 1) ** 3 + (1.2 * x) ** 2 * (1.2 * y) ** 3 < 0,
}
# 5x7 digits, one byte per row.
DIGITS = [
    np.unpackbits(np.frombuffer(bytes.fromhex(rows), np.uint8)[:, None], axis=1)[:, 3:]
    for rows in (
        *("0e11131519110e", "040c040404040e", "0e11010204081f", "1f02040201110e", "02060a121f0202"),
        *("1f101e0101110e", "0608101e11110e", "1f010204080808", "0e11110e11110e", "0e11110f01020c"),
    )
]
STORYBOARD = Path(__file__).with_name("storyboard.json")
PLACES = {"TL": (0.2, 0.26), "TR": (0.8, 0.26), "BL": (0.2, 0.76), "BR": (0.8, 0.76)}  # parts of the frame
STILL, NEVER, EPS = "standing still", math.inf, 1e-6
LAMP = ["the lamp was switched off", "the lamp was switched on"]


# ---------------------------------------------------------------- the world: what is where, and when


def need(ok: bool, what: str) -> None:
    if not ok:
        raise ValueError(what)


def only(found: Iterable):
    """The single element of `found`; a question with no or several answers is an error."""
    found = list(found)
    need(len(found) == 1, f"expected one answer, got {found}")
    return found[0]


@dataclass(frozen=True)
class Thing:
    """A colored shape; `path` holds its way points (second, x, y), `until` its end, `turns` its new color."""

    color: str
    shape: str
    path: tuple[tuple[float, float, float], ...]
    until: float = NEVER
    turns: tuple[float, str] = (NEVER, "")

    @property
    def start(self) -> float:
        """Second of appearance."""
        return self.path[0][0]

    def color_at(self, x: float) -> str:
        """Color at second `x`."""
        return self.turns[1] if x >= self.turns[0] else self.color

    def position(self, x: float) -> list[float]:
        """Center at second `x`, in parts of the frame."""
        times, *axes = zip(*self.path, strict=True)
        return [float(np.interp(x, times, values)) for values in axes]

    def corner(self, x: float) -> str:
        """Quadrant at second `x`, refused near the middle lines."""
        px, py = self.position(x)
        need(min(abs(px - 0.5), abs(py - 0.5)) > 0.1, f"{self.shape} is too close to the middle at {x} s")
        return f"{'top' if py < 0.5 else 'bottom'} {'left' if px < 0.5 else 'right'}"

    def legs(self) -> list[tuple[float, float, str]]:
        """Moves as (start, end, direction)."""
        pairs = ((a, b) for a, b in itertools.pairwise(self.path) if a[1:] != b[1:])
        ways = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}
        return [(a[0], b[0], ways[tuple(np.sign(np.subtract(b[1:], a[1:])))]) for a, b in pairs]

    def motion(self, x: float) -> str:
        """Motion at second `x`, which two frames 2 s apart must be able to tell."""
        early, now = ([f"moving {way}" for a, b, way in self.legs() if a <= y < b] for y in (x - 1.5, x))
        need(now == early and self.start <= x - 1.5, f"the motion of the {self.shape} is unclear at {x} s")
        return only(now or [STILL])


@dataclass(frozen=True)
class Scene:
    """One video. Changes come on odd seconds, 4 s apart, so 0.5 fps samples every state at least twice."""

    name: str
    seconds: int
    things: list[Thing]
    base: list[int]
    sign: list[tuple[float, str]] = ()
    lamp: list[tuple[float, float]] = ()
    size: tuple[int, int] = (128, 128)
    fps: Fraction = Fraction(8)
    shake_px: float = 0.0
    cut: float = NEVER

    def __post_init__(self):
        chains = [[t for t, _ in self.sign], list(itertools.chain(*self.lamp))]
        for thing in self.things:
            chains += [[t for t, _, _ in thing.path], [thing.start, thing.turns[0], thing.until]]
        for times in ([t for t in chain if t < NEVER] for chain in chains):
            gaps = [b - a for a, b in itertools.pairwise([*times, self.seconds + 1])]
            odd = all(t == 0 or t % 2 == 1 for t in times)
            need(odd and min(gaps, default=4) >= 4, f"{self.name}: bad times {times}")
        need(len({t.shape for t in self.things}) == len(self.things), f"{self.name}: a shape comes twice")

    def visible(self, x: float) -> list[Thing]:
        """Things in view at second `x`."""
        return [t for t in self.things if t.start <= x < t.until]

    def number(self, x: float) -> str:
        """What the sign shows at second `x`."""
        return [text for t, text in self.sign if t <= x][-1]

    def lit(self, x: float) -> bool:
        """Whether the lamp is on at second `x`."""
        return any(on <= x < off for on, off in self.lamp)

    def story(self) -> list[tuple[float, float, str, str, str]]:
        """All that happens: (start, end, name of the step, sentence for the start, sentence for the end)."""
        told = [(on, off, "keep the lamp lit", *LAMP[::-1]) for on, off in self.lamp]
        for (a, text), (b, _) in itertools.pairwise([*self.sign, (self.seconds, "")]):
            told.append((a, b, f"show {text} on the sign", f"the sign changed to {text}", ""))
        for t in self.things:
            name = f"the {t.shape}"
            told.append((t.start, t.until, "", f"a {t.color} {t.shape} came up", f"{name} vanished"))
            told.append((t.turns[0], NEVER, "", f"{name} turned {t.turns[1]}", ""))
            for a, b, way in t.legs():
                told.append((a, b, f"move {name} {way}", f"{name} began to move {way}", f"{name} stopped"))
        return told

    def events(self, x: float) -> list[tuple[float, str]]:
        """What has happened by second `x`, as (second, sentence), in time order."""
        found = [pair for a, b, _, begins, ends in self.story() for pair in ((a, begins), (b, ends))]
        return sorted((t, text) for t, text in found if 0 < t <= x and text and t < NEVER)

    def spans(self, step: str) -> list[tuple[float, float]]:
        """Start and end of every step whose name begins with `step`, in time order."""
        return sorted((a, b) for a, b, name, _, _ in self.story() if name.startswith(step))


def read_scene(things: list[dict], fps: str = "8", **rest) -> Scene:
    cast = []
    for thing in things:
        color, shape = thing.pop("look").split()
        path = tuple((t, *PLACES[place]) for t, place in thing.pop("path"))
        cast.append(Thing(color, shape, path, **thing))
    return Scene(things=cast, fps=Fraction(fps), **rest)


STORY = json.loads(STORYBOARD.read_text())
SCENES = {int(row["name"].split("_")[1]): read_scene(**row) for row in STORY["scenes"]}


# ---------------------------------------------------------------- drawing


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Noise with about one bump every `cell` pixels, float [height, width, 1]."""
    grid = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))[..., None]


def draw_room(rng: np.random.Generator, scene: Scene, margin: int) -> np.ndarray:
    """Textured static background, `margin` pixels larger than the frame on every side."""
    width, height = (n + 2 * margin for n in scene.size)
    room = np.array(scene.base) + rng.normal(0, 4, 3)
    room = room + sum(a * smooth_noise(rng, height, width, cell) for a, cell in ((9, 40), (6, 12), (2, 2)))
    for _ in range(3):
        y, x = rng.integers(0, height * 3 // 4), rng.integers(0, width * 3 // 4)
        room[y : y + height // 4, x : x + width // 3] += rng.normal(0, 10)
    return room


def paste(frame: np.ndarray, shape: str, center: tuple[float, float], radius: float, color) -> None:
    """Blend an antialiased shape (3 x 3 samples per pixel) into `frame` in place."""
    n, (x0, y0) = 2 * math.ceil(radius) + 2, (int(c - radius) for c in center)
    axes = zip((x0, y0), center, strict=True)
    xs, ys = ((low + (np.arange(3 * n) + 0.5) / 3 - c) / radius for low, c in axes)
    mask = SHAPES[shape](xs, ys[:, None]).reshape(n, 3, n, 3).mean(axis=(1, 3))[..., None]
    box = frame[y0 : y0 + n, x0 : x0 + n]
    box += mask * (np.asarray(color) - box)


def paste_sign(frame: np.ndarray, text: str, center: tuple[float, float]) -> None:
    """Draw a white panel with dark digits in place."""
    glyphs = np.pad(np.hstack([np.pad(DIGITS[int(c)], 1) for c in text]), 1)
    panel = np.kron(glyphs, np.ones((4 if len(text) == 1 else 3,) * 2))[..., None]
    y, x = round(center[1] - panel.shape[0] / 2), round(center[0] - panel.shape[1] / 2)
    frame[y : y + panel.shape[0], x : x + panel.shape[1]] = 235 - 215 * panel


def frames(scene: Scene) -> Iterator[np.ndarray]:
    """Yield the raw RGB frames, uint8 [height, width, 3]."""
    rng = np.random.default_rng(int(scene.name.split("_")[1]))
    (width, height), margin = scene.size, 6
    rooms = [draw_room(rng, scene, margin), draw_room(rng, scene, margin)[..., ::-1] * 0.8 + 12]
    sway = rng.uniform(0, 2 * np.pi, (2, 2))
    bulb = np.multiply(scene.size, (0.5, 0.6))
    ys, xs = np.mgrid[:height, :width, :1][:2]
    glow = 14 + 26 * np.exp(-np.hypot(xs - bulb[0], ys - bulb[1]) / 42)
    for i in range(math.ceil(scene.seconds * scene.fps)):
        t = float(i / scene.fps)
        shift = np.rint(scene.shake_px * (np.sin(sway[0] + 2.1 * t) + np.sin(sway[1] + 5.3 * t)) / 1.5)
        x, y = (margin - shift).astype(int)
        frame = rooms[t >= scene.cut][y : y + height, x : x + width].copy()
        if scene.sign:
            paste_sign(frame, scene.number(t), shift + np.multiply(scene.size, (0.5, 0.2)))
        if scene.lamp:
            frame += glow * scene.lit(t)
            paste(frame, "square", shift + bulb + np.array((0, 11)), 5, (60, 60, 64))
            paste(frame, "circle", shift + bulb, 8.5, (40, 40, 44))
            paste(frame, "circle", shift + bulb, 7, (255, 245, 170) if scene.lit(t) else (92, 92, 96))
        for thing in scene.visible(t):
            center = shift + np.multiply(thing.position(t), scene.size)
            color = np.array(COLORS[thing.color_at(t)])
            paste(frame, thing.shape, center, 15, color * 0.35)
            paste(frame, thing.shape, center, 12.5, color)
        frame += 3 * np.sin(0.9 * t) + 2 * np.sin(4 * t + xs / 32) + rng.normal(0, 2, frame.shape)
        yield frame.clip(0, 255).astype(np.uint8)


def encode(scene: Scene, path: Path) -> None:
    """Write the scene as H.264; one thread and no SIMD, which x264 needs to repeat its bytes at any width."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        options = {
            "crf": "23",
            "preset": "slower",
            "g": str(round(8 * scene.fps)),
            "x264-params": "threads=1:no-asm=1",
        }
        stream = container.add_stream("libx264", rate=scene.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *scene.size, "yuv420p"
        for array in frames(scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
