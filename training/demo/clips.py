"""Stage 2a: worlds encoded once by the frozen tower, and the questions drawn from them at every step."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from stc_lmms.benchmarks import ovobench
from training.demo import model as blueprint
from training.demo import scenes
from training.demo.questions import FAMILIES, Asked, ask
from training.demo.streaming_questions import ask_choice, ask_proactive, poll, prompt_of
from training.demo.world import CELLS, World, make_world, render

LENGTHS = {16: 2200, 32: 300, 60: 200}  # frames per clip -> number of clips
TOKENS = CELLS * CELLS
NOW = ("OCR", "ATR", "OJR", "STU", "ACR", "FPD", "HLD", "SSR")
EMPTY, SIGN, LAMP = -1, 100, 101


@dataclass(frozen=True)
class Clip:
    """A world, its tokens float16 [F,36,192], and the content of every cell int8 [F,36].

    `thing` is the number of an object, `SIGN`, `LAMP` or `EMPTY`.
    """

    world: World
    tokens: torch.Tensor
    thing: np.ndarray

    def window(self, first: int, count: int) -> "Clip":
        """`count` frames from `first` on, as a clip of their own."""
        part = slice(first, first + count)
        return Clip(self.world.window(first, count), self.tokens[part], self.thing[part])


@torch.no_grad()
def make_clips(stock: nn.Module, folder: Path, seed: int, lengths: dict[int, int]) -> dict[int, list[Clip]]:
    """Clips by length; tokens are stored in `folder`, so that a resumed run need not encode them again."""
    found = {}
    for frames, count in lengths.items():
        path = folder / f"tokens_{frames}.npy"
        worlds = [make_world(seed, 10_000 * frames + i, frames) for i in range(count)]
        if not path.exists():
            shape = (count, frames, TOKENS, blueprint.WIDTH)
            part = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.float16, shape)
            for i, world in enumerate(tqdm(worlds, f"{frames} frames", mininterval=10)):
                tower, projector = stock.model.vision_tower, stock.model.multi_modal_projector
                part[i] = blueprint.see(tower, projector, render(world)).numpy()
            part.flush()
            path.with_suffix(".part").rename(path)
        tokens = torch.from_numpy(np.load(path))
        found[frames] = [Clip(w, t, things(w)) for w, t in zip(worlds, tokens, strict=True)]
    return found


def things(world: World) -> np.ndarray:
    """The content of every cell, int8 [F,36]; ambiguous cells are `EMPTY`."""
    found = np.full((world.frames, TOKENS), EMPTY, np.int8)
    for f in range(world.frames):
        kind, color, _ = scenes.cells_of(world, f)
        for k in np.flatnonzero(world.visible[:, f]):
            found[f][(kind == world.shape[k]) & (color == world.color[k, f])] = k
        found[f][kind == scenes.SIGN] = SIGN
        found[f][(kind == scenes.DARK) | (kind == scenes.LIT)] = LAMP
    return found


@dataclass(frozen=True)
class Line:
    """A question as text: prompt, expected answer and, for a choice, all options and the right one."""

    family: str
    frame: int
    prompt: str
    answer: str
    options: tuple[str, ...] = ()
    right: str = ""


def line(asked: Asked, prompt: str | None = None) -> Line:
    """A question in the official prompt, or in `prompt`."""
    text = asked.prompt if prompt is None else prompt
    return Line(
        asked.family, asked.frame, text, asked.gold, asked.options, asked.answer if asked.options else ""
    )


def draw(
    world: World, frames: np.ndarray, count: int, shares: dict[str, float], rng: np.random.Generator
) -> list[Line]:
    """`count` questions at random ones of `frames`; `shares` gives the relative frequency of each family."""
    families, weights = list(shares), np.array(list(shares.values()))
    found: list[Line] = []
    while len(found) < count:
        frame, form = int(rng.choice(frames)), rng.random()
        family = str(rng.choice(families, p=weights / weights.sum()))
        if form < 0.02 and len(families) == len(FAMILIES):
            found += _poll(world, frames, rng)
        elif form < 0.17:
            asked = ask_choice(world, family, frame, rng)
            found += [line(asked, prompt_of(asked))] if asked else []
        else:
            asked = ask(world, family, frame, rng)
            found += [line(asked)] if asked else []
    return found[:count]


def draw_sequences(world: World, frames: np.ndarray, count: int, rng: np.random.Generator) -> list[Line]:
    """Questions after a history of up to three others."""
    found: list[Line] = []
    while len(found) < count:
        times = np.sort(rng.choice(frames, int(rng.integers(2, 5))))
        asked = [ask_choice(world, str(rng.choice(FAMILIES)), int(f), rng) for f in times]
        asked = [one for one in asked if one]
        if asked:
            found.append(line(asked[-1], prompt_of(asked[-1], tuple(asked[:-1]))))
    return found


def _poll(world: World, frames: np.ndarray, rng: np.random.Generator) -> list[Line]:
    asked = ask_proactive(world, rng)
    if asked is None:
        return []
    question, output = poll(asked)
    later, before = frames[frames >= asked.gold], frames[(frames >= asked.frame) & (frames < asked.gold)]
    draw, found = rng.random(), []
    if draw < 0.5 and len(before):
        found.append(
            Line("POLL", int(before[-1] if rng.random() < 0.5 else rng.choice(before)), question, "No")
        )
    elif draw < 0.85 and len(later):
        found.append(Line("POLL", int(later[0]), question, "Yes"))
    elif len(later):
        found.append(Line("POLL", int(later[0]), output, asked.output))
    return found


def drill(rng: np.random.Generator, groups: list[tuple[str, ...]]) -> Line:
    """A question without a video: which option is this word?"""
    pool = groups[rng.integers(len(groups))]
    options = tuple(str(text) for text in rng.permutation(pool)[:4])
    right = options[rng.integers(4)]
    asked = Asked("DRILL", 0, right, options, right)
    text = ovobench.prompt({"task": "OCR", "question": right, "options": options})
    return line(asked, text)
