"""Crowded still pictures with a label for every token: the training data of the tower."""

from dataclasses import dataclass

import numpy as np

from training.demo import sprites
from training.demo import world as drawn
from training.demo.world import CELL_PX, CELLS, SHAPES, SIDE, background, make_world, render

SIGN, DARK, LIT, NOTHING = len(SHAPES), len(SHAPES) + 1, len(SHAPES) + 2, len(SHAPES) + 3
KINDS = NOTHING + 1
IGNORE = -1


@dataclass(frozen=True)
class Labels:
    """Content of every cell, int [B,36] each; `IGNORE` where it does not apply or is ambiguous."""

    kind: np.ndarray
    color: np.ndarray
    digit: np.ndarray


def crowded(rng: np.random.Generator, count: int) -> tuple[np.ndarray, Labels]:
    """Pictures uint8 [B,96,96,3] with 4 to 16 things each, most of them near the middle of a cell."""
    pictures = np.stack([background(rng) for _ in range(count)])
    which, centres = [], []
    for picture in range(count):
        for centre in _scatter(rng):
            which.append(picture)
            centres.append(centre)
    which, centres = np.array(which), np.array(centres)
    kinds = rng.choice(KINDS - 1, len(which), p=_shares())
    colors, digits = rng.integers(len(drawn.PALETTE), size=len(which)), rng.integers(10, size=len(which))
    radius = rng.uniform(6.2, 7.5, len(which))
    labels = Labels(*(np.full((count, CELLS * CELLS), IGNORE) for _ in range(3)))
    labels.kind[:] = NOTHING
    for kind in range(KINDS - 1):
        chosen = np.flatnonzero(kinds == kind)
        if len(chosen):
            _draw(
                pictures, kind, which[chosen], centres[chosen], radius[chosen], colors[chosen], digits[chosen]
            )
    cell = (centres // CELL_PX).astype(int)
    # A thing that reaches far into a neighbouring cell makes that cell ambiguous.
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        reach = cell + np.array((dx, dy))
        over = (dx * (centres[:, 0] - (cell[:, 0] + 0.5) * CELL_PX) > 2.5) | (
            dy * (centres[:, 1] - (cell[:, 1] + 0.5) * CELL_PX) > 2.5
        )
        over &= ((reach >= 0) & (reach < CELLS)).all(1)
        labels.kind[which[over], reach[over, 1] * CELLS + reach[over, 0]] = IGNORE
    token = cell[:, 1] * CELLS + cell[:, 0]
    labels.kind[which, token] = kinds
    labels.color[which, token] = np.where(kinds < SIGN, colors, IGNORE)
    labels.digit[which, token] = np.where(kinds == SIGN, digits, IGNORE)
    gain = rng.uniform(0.82, 1.18, (count, 1, 1, 1))
    noise = rng.normal(0, 1, (*pictures.shape[:3], 1)) * rng.uniform(0.3, 3, (count, 1, 1, 1))
    return np.clip(np.rint(pictures * gain + noise), 0, 255).astype(np.uint8), labels


def from_worlds(rng: np.random.Generator, count: int, seed: int) -> tuple[np.ndarray, Labels]:
    """Single frames of worlds with the same labels."""
    pictures, rows = [], []
    for _ in range(count):
        world = make_world(seed, int(rng.integers(1_000_000)), 16)
        frame = int(rng.integers(16))
        one = world.window(frame, 1)
        pictures.append(render(one)[0])
        rows.append(cells_of(one, 0))
    return np.stack(pictures), Labels(*(np.stack(column) for column in zip(*rows, strict=True)))


def cells_of(world, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind, color and digit of every cell of a frame, int [36] each; `IGNORE` for things between cells."""
    kind, color, digit = (np.full(CELLS * CELLS, IGNORE) for _ in range(3))
    kind[:] = NOTHING
    shake = world.look.shake[world.start + frame] / CELL_PX
    lamp = LIT if world.lit[frame] else DARK
    things = [(world.sign, SIGN, IGNORE, world.digit[frame]), (world.lamp, lamp, IGNORE, IGNORE)]
    for k in np.flatnonzero(world.visible[:, frame]):
        things.append((world.place[k, frame], world.shape[k], world.color[k, frame], IGNORE))
    for place, of_kind, of_color, of_digit in things:
        x, y = np.clip((place + shake).astype(int), 0, CELLS - 1)
        offset = np.abs(place + shake - (x + 0.5, y + 0.5)).max()
        token = y * CELLS + x
        if offset < 0.4:
            kind[token], color[token], digit[token] = of_kind, of_color, of_digit
        else:
            kind[token] = IGNORE
    return kind, color, digit


def _scatter(rng: np.random.Generator) -> list[np.ndarray]:
    """Centres about a cell apart: jittered cell centres, sometimes with large jitter."""
    wanted, reach, found = rng.integers(4, 17), 3.0 if rng.random() < 0.7 else 8.0, []
    for cell in rng.permutation(CELLS * CELLS):
        centre = (np.array((cell % CELLS, cell // CELLS)) + 0.5) * CELL_PX + rng.uniform(-reach, reach, 2)
        centre = np.clip(centre, 4, SIDE - 4.01)
        if all(np.abs(centre - other).max() >= CELL_PX - 2 for other in found):
            found.append(centre)
        if len(found) == wanted:
            break
    return found


def _shares() -> np.ndarray:
    shares = np.ones(KINDS - 1)
    shares[SIGN] = 4  # ten digits to learn
    return shares / shares.sum()


def _draw(pictures, kind, which, centres, radius, colors, digits) -> None:
    if kind < SIGN:
        sprites.paste(pictures, which, sprites.mask(SHAPES[kind], centres, radius, 1), drawn.PALETTE[colors])
    elif kind == SIGN:
        sprites.paste(pictures, which, sprites.mask("square", centres, 8.6, 1), drawn.PANEL)
        for digit in range(10):
            chosen = np.flatnonzero(digits == digit)
            if len(chosen):
                cover = sprites.digit_mask(digit, centres[chosen], 1)
                sprites.paste(pictures, which[chosen], cover, drawn.INK)
    else:
        bulb = sprites.mask("bulb", centres, 7.0, 1)
        sprites.paste(pictures, which, bulb, drawn.LIT if kind == LIT else drawn.DARK)
