"""StreamWorld: short seeded videos with known answers to every question about them.

A world is a sequence of frames, one every two seconds (0.5 fps): coloured shapes appear, disappear, move and
change colour on a textured background; a sign counts up or down; a lamp flashes. Some videos have camera
shake, flicker or a cut to another background, because with a still camera every method that reuses tokens
looks lossless.

The plane is 6 x 6 cells. At scale 1 a cell is 16 x 16 pixels, which is one LLM token of the demo model.
Frame f is what a camera sees at 2f seconds; states change half-way between frames, and the moving object
glides between them. Random numbers depend on `(seed, index)` alone, not on the order of calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.demo import sprites

CELLS, CELL_PX, FRAME_S = 6, 16, 2.0
SIDE = CELLS * CELL_PX
SHAPES = sprites.SHAPES
COLORS = {
    "red": (214, 48, 44),
    "green": (46, 160, 60),
    "blue": (48, 88, 214),
    "yellow": (236, 208, 48),
    "purple": (132, 56, 168),
    "orange": (240, 136, 32),
    "cyan": (64, 196, 212),
    "pink": (244, 140, 184),
}
COLOR_NAMES = tuple(COLORS)
MOTIONS = ("standing still", "moving left", "moving right", "moving up", "moving down")
MAX_FLASHES = 9
SHAKE_SHARE, FLICKER_SHARE, CUT_SHARE = 0.3, 0.25, 0.25

PALETTE = np.array(list(COLORS.values()), np.float32)
PANEL, INK = np.float32(236), np.float32(24)
LIT, DARK = np.array((255, 244, 176), np.float32), np.array((58, 58, 66), np.float32)


@dataclass(frozen=True)
class World:
    """One video. F frames, K objects; positions are centres, in cells from the top left corner.

    Attributes:
        shape: int [K], index into `SHAPES`; all of a video differ.
        color: int [K,F], index into `COLOR_NAMES`; no two objects share one in any frame.
        visible: bool [K,F].
        place: float [K,F,2], x and y.
        digit: int [F], what the sign shows.
        lit: bool [F], whether the lamp is on.
        sign, lamp: float [2], x and y.
        radius: float [K], pixels at scale 1.
        look: camera effects, used only for rendering.
        start: number of the first frame in the whole video, for a window of it.
    """

    shape: np.ndarray
    color: np.ndarray
    visible: np.ndarray
    place: np.ndarray
    digit: np.ndarray
    lit: np.ndarray
    sign: np.ndarray
    lamp: np.ndarray
    radius: np.ndarray
    look: "Look"
    start: int = 0

    @property
    def frames(self) -> int:
        """Number of frames F."""
        return len(self.digit)

    @property
    def motion(self) -> np.ndarray:
        """Int [K,F], index into `MOTIONS`: the step from the frame before; -1 where not visible in both."""
        step = np.zeros_like(self.place)
        step[:, 1:] = self.place[:, 1:] - self.place[:, :-1]
        x, y = step[..., 0], step[..., 1]
        found = np.select([x < -0.5, x > 0.5, y < -0.5, y > 0.5], [1, 2, 3, 4], 0)
        both = self.visible.copy()
        both[:, 1:] &= self.visible[:, :-1]
        both[:, 0] = False
        return np.where(both, found, -1)

    @property
    def first_seen(self) -> np.ndarray:
        """Int [K]: the first frame an object is visible in; F if it never is."""
        return np.where(self.visible.any(1), self.visible.argmax(1), self.frames)

    def window(self, first: int, count: int) -> "World":
        """`count` frames from `first` on, as a video of their own."""
        part = slice(first, first + count)
        return replace(
            self,
            color=self.color[:, part],
            visible=self.visible[:, part],
            place=self.place[:, part],
            digit=self.digit[part],
            lit=self.lit[part],
            start=self.start + first,
        )


@dataclass(frozen=True)
class Look:
    """Camera effects. `shake` is float [F,2] in pixels at scale 1, `gain` float [F]."""

    seed: tuple[int, int]
    cut: int
    shake: np.ndarray
    gain: np.ndarray
    noise: float


def make_world(seed: int, index: int, frames: int) -> World:
    """World number `index` of a seed.

    Args:
        seed: seed of the data set; training and held-out worlds have different ones.
        index: number of the video.
        frames: F, at least 4.
    """
    if frames < 4:
        raise ValueError(f"a world has at least 4 frames, got {frames}")
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(4, 6) if frames <= 20 else rng.integers(5, 7))
    place, sign, lamp = _places(rng, count, frames)
    visible = _visible(rng, count, frames)
    return World(
        shape=rng.permutation(len(SHAPES))[:count],
        color=_colors(rng, visible),
        visible=visible,
        place=place,
        digit=_digits(rng, frames),
        lit=_flashes(rng, frames),
        sign=sign,
        lamp=lamp,
        radius=rng.uniform(6.2, 7.5, count),
        look=_look(rng, (seed, index), frames),
    )


def _places(rng: np.random.Generator, count: int, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Object 1 moves along a row or column of its own; everything else stays in a cell of its own."""
    lane, upright = int(rng.integers(CELLS)), bool(rng.random() < 0.5)
    cells = [(x, y) for x in range(CELLS) for y in range(CELLS) if (x if upright else y) != lane]
    chosen = np.array(cells, float)[rng.permutation(len(cells))[: count + 1]] + 0.5
    chosen += rng.uniform(-2.5, 2.5, chosen.shape) / CELL_PX
    place = np.repeat(chosen[:count, None], frames, 1)
    sign, lamp = chosen[count], chosen[1].copy()
    along = _walk(rng, frames) + 0.5
    if rng.random() < 0.25:  # straddles two cells
        along = np.clip(along + rng.uniform(-0.4, 0.4), 0.5, CELLS - 0.5)
    across = np.full(frames, lane + 0.5 + rng.uniform(-2.5, 2.5) / CELL_PX)
    place[1] = np.stack((across, along) if upright else (along, across), -1)
    return place, sign, lamp


def _walk(rng: np.random.Generator, frames: int) -> np.ndarray:
    at, way = int(rng.integers(CELLS)), int(rng.choice((-1, 1)))
    path = [at]
    while len(path) < frames:
        draw = rng.random()
        if draw >= 0.16:
            if not 0 <= at + way < CELLS:
                way = -way
            at += way
        elif draw >= 0.10:  # turns around
            way = -way
            at = min(max(at + way, 0), CELLS - 1)
        path.append(at)
    return np.array(path, float)


def _visible(rng: np.random.Generator, count: int, frames: int) -> np.ndarray:
    """Object 0 is visible from the start, the others appear one by one; many that do not move vanish."""
    last = max(count, int(frames * 0.8))
    starts = np.concatenate(([0], 1 + rng.permutation(last - 1)[: count - 1]))
    ends = np.full(count, frames)
    for k in range(count):
        if k != 1 and rng.random() < 0.55:
            ends[k] = starts[k] + rng.integers(2, max(7, frames // 3))
    time = np.arange(frames)
    return (time >= starts[:, None]) & (time < ends[:, None])


def _colors(rng: np.random.Generator, visible: np.ndarray) -> np.ndarray:
    count, frames = visible.shape
    hues = rng.permutation(len(COLOR_NAMES))
    color = np.repeat(hues[:count, None], frames, 1)
    chameleon = int(rng.choice([k for k in range(count) if k != 1]))
    seen = np.flatnonzero(visible[chameleon])
    if len(seen) > 2 and rng.random() < 0.7:
        color[chameleon, rng.integers(seen[1], seen[-1] + 1) :] = hues[count]
    return color


def _digits(rng: np.random.Generator, frames: int) -> np.ndarray:
    way, value, shown = int(rng.choice((-1, 1))), int(rng.integers(10)), []
    while len(shown) < frames:
        shown += [value] * int(rng.integers(1, 4))
        value = (value + way) % 10
    return np.array(shown[:frames])


def _flashes(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Single lit frames with dark ones in between, at most `MAX_FLASHES`."""
    lit = np.zeros(frames, bool)
    rate = rng.uniform(0.1, 0.6) * min(1.0, 20 / frames)
    for f in range(frames):
        lit[f] = lit.sum() < MAX_FLASHES and not (f and lit[f - 1]) and rng.random() < rate
    return lit


def _look(rng: np.random.Generator, seed: tuple[int, int], frames: int) -> Look:
    shake = rng.uniform(-2, 2, (frames, 2)) * (rng.random() < SHAKE_SHARE)
    gain = 1 + np.clip(np.cumsum(rng.normal(0, 0.006, frames)), -0.03, 0.03)
    gain += rng.uniform(-0.14, 0.14, frames) * (rng.random() < FLICKER_SHARE)
    cut = int(rng.integers(1, frames)) if rng.random() < CUT_SHARE else frames
    return Look(seed, cut, shake, gain, float(rng.uniform(0.5, 2.5)))


def render(world: World, times_s: Sequence[float] | None = None, scale: int = 1) -> np.ndarray:
    """Pictures uint8 [T,96*scale,96*scale,3] of a world.

    Args:
        world: the whole video, or a window of it.
        times_s: times in seconds after the start of the window (default: every frame's own).
        scale: pixels per pixel of the plane.
    """
    times_s = np.arange(world.frames) * FRAME_S if times_s is None else np.asarray(times_s, float)
    moment = np.clip(times_s / FRAME_S, 0, world.frames - 1)
    state = np.floor(moment + 0.5).astype(int)  # of each picture
    look = world.look
    shake = _between(look.shake, moment + world.start)
    pictures = _backgrounds(look, state + world.start, shake, scale)
    for k in range(len(world.shape)):
        shown = np.flatnonzero(world.visible[k, state])
        if len(shown):
            centre = _between(world.place[k], moment[shown]) * CELL_PX + shake[shown]
            mask = sprites.mask(SHAPES[world.shape[k]], centre, world.radius[k], scale)
            sprites.paste(pictures, shown, mask, PALETTE[world.color[k, state[shown]]])
    _draw_sign_and_lamp(pictures, world, state, shake, scale)
    for t, number in enumerate(state + world.start):
        noise = np.random.default_rng([*look.seed, 7, number]).normal(0, look.noise, pictures.shape[1:3])
        pictures[t] = pictures[t] * look.gain[number] + noise[..., None].astype(np.float32)
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def _draw_sign_and_lamp(
    pictures: np.ndarray, world: World, state: np.ndarray, shake: np.ndarray, scale: int
) -> None:
    everywhere = np.arange(len(state))
    centre = world.sign * CELL_PX + shake
    sprites.paste(pictures, everywhere, sprites.mask("square", centre, 8.6, scale), PANEL)
    for digit in np.unique(world.digit[state]):
        shown = np.flatnonzero(world.digit[state] == digit)
        sprites.paste(pictures, shown, sprites.digit_mask(digit, centre[shown], scale), INK)
    centre = world.lamp * CELL_PX + shake
    bulb = np.where(world.lit[state, None], LIT, DARK)
    sprites.paste(pictures, everywhere, sprites.mask("bulb", centre, 7.0, scale), bulb)


def _between(values: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """`values` [F,2] at fractional frame numbers, by linear interpolation."""
    below = np.floor(moment).astype(int)
    above = np.minimum(below + 1, len(values) - 1)
    part = (moment - below)[:, None]
    return values[below] * (1 - part) + values[above] * part


def _backgrounds(look: Look, number: np.ndarray, shake: np.ndarray, scale: int) -> np.ndarray:
    """float32 [T,H,W,3]: one texture before the cut, another after it, both moved by the shake."""
    side = SIDE * scale
    pictures = np.empty((len(number), side, side, 3), np.float32)
    for part in (0, 1):
        chosen = np.flatnonzero((number >= look.cut) == part)
        if not len(chosen):
            continue
        texture = background(np.random.default_rng([*look.seed, 3, part]), scale)
        for t in chosen:
            by = np.rint(shake[t] * scale).astype(int)
            pictures[t] = np.roll(texture, (by[1], by[0]), (0, 1)) if by.any() else texture
    return pictures


def background(rng: np.random.Generator, scale: int = 1) -> np.ndarray:
    """A muted texture, float32 [96*scale,96*scale,3]: a colour, two octaves of noise, faint rectangles."""
    base = rng.uniform(70, 165, 3)
    base += (base.mean() - base) * 0.6
    texture = np.broadcast_to(base, (SIDE, SIDE, 3)).astype(np.float32)
    for cells, strength in ((4, 14), (12, 7)):
        texture = texture + _smooth(rng.normal(0, strength, (cells, cells, 1)), SIDE)
    for _ in range(rng.integers(0, 4)):
        (x, y), (w, h) = rng.integers(0, SIDE - 16, 2), rng.integers(14, 48, 2)
        texture[y : y + h, x : x + w] += rng.uniform(-14, 14)
    return texture.repeat(scale, 0).repeat(scale, 1) if scale > 1 else texture


def _smooth(grid: np.ndarray, side: int) -> np.ndarray:
    """A small grid [G,G,1] enlarged to [side,side,1] by linear interpolation."""
    at = np.linspace(0, len(grid) - 1, side)
    weight = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(grid)))).astype(np.float32)
    return (weight @ grid[..., 0].astype(np.float32) @ weight.T)[..., None]
