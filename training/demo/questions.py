"""Questions about a StreamWorld, in the twelve families of OVO-Bench, with their true answers.

A question asked at frame f depends on frames 0 to f alone. Wrong options are hard: most of them come from the
same video's past, and "Unable to answer" is one of them in a quarter of the questions.

Some answers are more frequent than others, and hard options can give the answer away: most objects stand
still, the lamp is mostly off, and a number with both neighbours among the options is likely the answer.
Training may use such questions; benchmarks draw them with `even`, so that the text alone does not help.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stc_lmms.benchmarks import ovobench
from training.demo.world import CELLS, COLOR_NAMES, FRAME_S, MOTIONS, SHAPES, World

FAMILIES = ("OCR", "ATR", "OJR", "STU", "ACR", "FPD", "EPM", "ASI", "HLD", "REC", "SSR", "CRR")
QUARTERS = ("top-left", "top-right", "bottom-left", "bottom-right")
DIGITS = tuple("0123456789")
UNABLE = "Unable to answer"
OPTIONS = 4
ACTIVITY = "flash the lamp"
HARD_SHARE, UNABLE_SHARE = 0.8, 0.25
# With `even`, the probability of common cases: an object that stands still, the lamp when it is off.
EVEN_STILL, EVEN_DARK = 0.2, 0.3


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Attributes:
        family: one of `FAMILIES`.
        frame: f; the question comes after this frame and before the next.
        text: the question, or the step of SSR, or the activity of REC.
        options: options of a multiple-choice question, in order; empty for REC, SSR and CRR.
        answer: the right option's text, the count, or Yes or No.
    """

    family: str
    frame: int
    text: str
    options: tuple[str, ...]
    answer: str

    @property
    def realtime_s(self) -> float:
        """Time of the question in seconds; OVO-Bench shows the video up to the next whole second."""
        return self.frame * FRAME_S + 0.5

    def row(self) -> dict[str, Any]:
        """The question in the schema of OVO-Bench, without `id` and `video`."""
        if self.options:
            gold = {"answer": self.answer, "options": list(self.options)}
            gold["gt"] = self.options.index(self.answer)
            return {"task": self.family, "realtime": self.realtime_s, "question": self.text} | gold
        field = {"REC": "activity", "CRR": "question"}.get(self.family)
        text = {field: self.text} if field else {}
        return {"task": self.family} | text | {"test_info": [self.round()]}

    def round(self) -> dict[str, Any]:
        """The question as one round of a forward row."""
        info: dict[str, Any] = {"realtime": self.realtime_s}
        if self.family == "REC":
            return info | {"count": int(self.answer)}
        if self.family == "SSR":
            info["step"] = self.text
        return info | {"type": int(self.answer == "Yes")}

    @property
    def prompt(self) -> str:
        """The official prompt."""
        return ovobench.prompt(self.row())

    @property
    def gold(self) -> str:
        """What the model should say: a letter, a number, Yes or No."""
        return chr(ord("A") + self.options.index(self.answer)) if self.options else self.answer


def ask(world: World, family: str, frame: int, rng: np.random.Generator, even: bool = False) -> Asked | None:
    """A question of a family at a frame of a world, or None if there is none.

    With `even`, questions with too common an answer are sometimes dropped (None) as well.
    """
    found = _ASKERS[family](_Past(world, frame, even), rng)
    if found is None:
        return None
    text, answer, pool, hard = found
    if pool is None:
        return Asked(family, frame, text, (), answer)
    options = _options(answer, pool, hard, rng)
    return Asked(family, frame, text, options, answer)


Found = tuple[str, str, tuple[str, ...] | None, list[str]] | None  # text, answer, option pool, hard options


class _Past:
    """The content of frames 0 to f."""

    def __init__(self, world: World, frame: int, even: bool):
        self.world, self.frame, self.even = world, frame, even
        self.visible = world.visible[:, : frame + 1]
        self.color = world.color[:, : frame + 1]
        self.seen = np.flatnonzero(self.visible.any(1))
        self.now = np.flatnonzero(self.visible[:, -1])
        self.gone = np.setdiff1d(self.seen, self.now)
        self.first = world.first_seen
        digits = world.digit[: frame + 1]
        self.digits = digits[np.flatnonzero(np.diff(digits, prepend=-1))]  # every number once, in order

    def shape(self, k: int) -> str:
        return SHAPES[self.world.shape[k]]

    def last(self, k: int) -> int:
        """The last frame in which object k is visible."""
        return int(np.flatnonzero(self.visible[k])[-1])

    def color_at(self, k: int, frame: int) -> str:
        return COLOR_NAMES[self.color[k, frame]]

    def quarter_at(self, k: int, frame: int) -> str:
        x, y = self.world.place[k, frame] >= CELLS / 2
        return QUARTERS[2 * int(y) + int(x)]

    def shapes(self) -> list[str]:
        return [self.shape(k) for k in self.seen]

    def colors(self) -> list[str]:
        """Every colour that was visible."""
        return [COLOR_NAMES[c] for c in np.unique(self.color[self.visible])]

    def changed(self) -> np.ndarray:
        """Seen objects that had more than one colour."""
        many = [k for k in self.seen if len(np.unique(self.color[k][self.visible[k]])) > 1]
        return np.array(many, int)


def _options(
    answer: str, pool: tuple[str, ...], hard: list[str], rng: np.random.Generator
) -> tuple[str, ...]:
    easy = [text for text in rng.permutation(pool) if text != answer]
    near = [text for text in rng.permutation(np.unique(hard)) if text != answer] if hard else []
    wrong = [str(text) for text in near if rng.random() < HARD_SHARE]
    wrong += [str(text) for text in easy if text not in wrong]
    wrong = wrong[: OPTIONS - 1]
    if answer != UNABLE and rng.random() < UNABLE_SHARE:
        wrong[-1] = UNABLE
    return tuple(str(text) for text in rng.permutation([answer, *wrong]))


def _pick(rng: np.random.Generator, *groups: np.ndarray, first: float) -> int | None:
    """A random member of the first non-empty group with probability `first`, else of the last."""
    groups = [group for group in groups if len(group)]
    if not groups:
        return None
    return int(rng.choice(groups[0 if rng.random() < first else -1]))


def _beside(digit: str) -> list[str]:
    """The numbers before and after: without them the end of a run of numbers would give the answer away."""
    return [str((int(digit) + step) % 10) for step in (-1, 1)]


def run_around(number: int, rng: np.random.Generator, modulo: int | None = None) -> tuple[str, ...]:
    """Four consecutive numbers with `number` at a random position; without `modulo` none is negative."""
    most = OPTIONS - 1 if modulo else min(OPTIONS - 1, number)
    start = number - int(rng.integers(most + 1))
    return tuple(str(n % modulo if modulo else n) for n in range(start, start + OPTIONS))


def _number(
    past: _Past, rng: np.random.Generator, text: str, answer: str, hard: list[str]
) -> tuple[str, str, tuple[str, ...], list[str]]:
    if past.even:
        return text, answer, run_around(int(answer), rng, len(DIGITS)), []
    return text, answer, DIGITS, hard


def _ocr(past: _Past, rng: np.random.Generator) -> Found:
    shown = [str(d) for d in past.digits]
    hard = shown[-3:] + _beside(shown[-1])
    return _number(past, rng, "What number does the sign show now?", shown[-1], hard)


def _fpd(past: _Past, rng: np.random.Generator) -> Found:
    if len(past.digits) < 2:
        return None
    way = (past.digits[-1] - past.digits[-2]) % 10
    shown = [str(d) for d in past.digits]
    after = str((past.digits[-1] + way) % 10)
    hard = [*shown[-2:], *_beside(after), *_beside(shown[-1])]
    return _number(past, rng, "What number will the sign show next?", after, hard)


def _atr(past: _Past, rng: np.random.Generator) -> Found:
    changed = np.intersect1d(past.changed(), past.now)
    k = _pick(rng, changed, past.now, first=0.4)
    if k is None:
        return None
    return f"What color is the {past.shape(k)} now?", past.color_at(k, -1), COLOR_NAMES, past.colors()


def _ojr(past: _Past, rng: np.random.Generator) -> Found:
    k = _pick(rng, past.now, first=1)
    if k is None:
        return None
    return f"Which object is {past.color_at(k, -1)} now?", past.shape(k), SHAPES, past.shapes()


def _stu(past: _Past, rng: np.random.Generator) -> Found:
    k = _pick(rng, past.now, first=1)
    if k is None:
        return None
    return f"Where is the {past.shape(k)} now?", past.quarter_at(k, past.frame), QUARTERS, []


def _acr(past: _Past, rng: np.random.Generator) -> Found:
    motion = past.world.motion[:, past.frame]
    moving, still = np.flatnonzero(motion > 0), np.flatnonzero(motion == 0)
    if past.even:  # all motions equally often
        moving, still = (still, still) if rng.random() < EVEN_STILL else (moving, moving)
    k = _pick(rng, moving, still, first=0.7)
    if k is None:
        return None
    return f"What is the {past.shape(k)} doing now?", MOTIONS[motion[k]], MOTIONS, [MOTIONS[0]]


def _epm(past: _Past, rng: np.random.Generator) -> Found:
    form = rng.integers(4)
    if form == 0 and len(past.gone):
        k = int(rng.choice(past.gone))
        text, answer = (
            f"What color was the {past.shape(k)} before it disappeared?",
            past.color_at(k, past.last(k)),
        )
        return text, answer, COLOR_NAMES, past.colors()
    if form == 1 and len(past.gone):
        k = int(rng.choice(past.gone))
        text = f"Where was the {past.shape(k)} before it disappeared?"
        return text, past.quarter_at(k, past.last(k)), QUARTERS, []
    if form == 2:
        k = _pick(rng, past.changed(), past.seen, first=0.7)
        if k is None:
            return None
        text, answer = f"What color was the {past.shape(k)} at first?", past.color_at(k, past.first[k])
        return text, answer, COLOR_NAMES, past.colors()
    if form == 3 and len(past.digits) > 1:
        shown = [str(d) for d in past.digits]
        hard = shown[:3] + _beside(shown[0])
        return _number(past, rng, "What number did the sign show at first?", shown[0], hard)
    return None


def _asi(past: _Past, rng: np.random.Generator) -> Found:
    order = past.seen[np.argsort(past.first[past.seen], kind="stable")]
    if len(order) < 3 or len(np.unique(past.first[order])) < len(order):
        return None
    form, shapes = rng.integers(4), past.shapes()
    if form == 0:
        return "Which object appeared first?", past.shape(order[0]), SHAPES, shapes
    if form == 1:
        return "Which object appeared last?", past.shape(order[-1]), SHAPES, shapes
    at = int(rng.integers(len(order) - 1))
    named = past.shape(order[at])
    text, pool = f"Which object appeared right after the {named}?", SHAPES
    if past.even:  # the object named in the question cannot be the answer
        pool, shapes = tuple(s for s in SHAPES if s != named), [s for s in shapes if s != named]
    return text, past.shape(order[at + 1]), pool, shapes


def _hld(past: _Past, rng: np.random.Generator) -> Found:
    shape = str(rng.choice([s for s in SHAPES if s not in past.shapes()]))
    color = str(rng.choice([c for c in COLOR_NAMES if c not in past.colors()]))
    text, pool, hard = (
        (f"What color is the {shape} now?", COLOR_NAMES, past.colors()),
        (f"What color was the {shape} before it disappeared?", COLOR_NAMES, past.colors()),
        (f"Where is the {shape} now?", QUARTERS, []),
        (f"Which object is {color} now?", SHAPES, past.shapes()),
        (f"What is the {shape} doing now?", MOTIONS, []),
    )[rng.integers(5)]
    return text, UNABLE, pool, hard


def _rec(past: _Past, rng: np.random.Generator) -> Found:
    return ACTIVITY, str(int(past.world.lit[: past.frame + 1].sum())), None, []


def _ssr(past: _Past, rng: np.random.Generator) -> Found:
    true, world, f = bool(rng.random() < 0.5), past.world, past.frame
    form = rng.integers(4)
    if form == 0:
        if past.even and not world.lit[f] and rng.random() > EVEN_DARK:
            return None
        state = "on" if world.lit[f] == true else "off"
        return f"The lamp is {state}.", "Yes" if true else "No", None, []
    if form == 1:
        others = [d for d in past.digits[-3:-1] if d != world.digit[f]] or [(world.digit[f] + 1) % 10]
        digit = world.digit[f] if true else rng.choice(others)
        return f"The sign shows {digit}.", "Yes" if true else "No", None, []
    if form == 2:
        motion = world.motion[:, f]
        moving = np.flatnonzero(motion > 0)
        if not len(moving):
            return None
        k = int(moving[0])
        others = range(1 if past.even else 0, len(MOTIONS))  # it does move
        claimed = motion[k] if true else rng.choice([m for m in others if m != motion[k]])
        return f"The {past.shape(k)} is {MOTIONS[claimed]}.", "Yes" if true else "No", None, []
    if true:
        k = _pick(rng, past.now, first=1)
        shape = None if k is None else past.shape(k)
    else:
        absent = [s for s in SHAPES if s not in {past.shape(k) for k in past.now}]
        gone = [past.shape(k) for k in past.gone]
        shape = str(rng.choice(gone if gone and rng.random() < 0.6 else absent))
    return None if shape is None else (f"The {shape} is visible.", "Yes" if true else "No", None, [])


def _crr(past: _Past, rng: np.random.Generator) -> Found:
    if rng.random() < 0.5:
        k = _pick(rng, past.gone, past.seen, first=0.4)
        shape = None if k is None else past.shape(k)
    else:
        later = [SHAPES[s] for s in past.world.shape if SHAPES[s] not in past.shapes()]
        absent = [s for s in SHAPES if s not in past.shapes()]
        shape = str(rng.choice(later if later and rng.random() < 0.5 else absent))
    if shape is None:
        return None
    answer = "Yes" if shape in past.shapes() else "No"
    return f"What color is the {shape}?", answer, None, []


_ASKERS: Mapping[str, Callable[[_Past, np.random.Generator], Found]] = {
    "OCR": _ocr,
    "ATR": _atr,
    "OJR": _ojr,
    "STU": _stu,
    "ACR": _acr,
    "FPD": _fpd,
    "EPM": _epm,
    "ASI": _asi,
    "HLD": _hld,
    "REC": _rec,
    "SSR": _ssr,
    "CRR": _crr,
}
