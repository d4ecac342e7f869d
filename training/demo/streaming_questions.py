"""Questions in the formats of StreamingBench: four lettered options, a history, or a poll."""

from dataclasses import dataclass

import numpy as np

from stc_lmms.benchmarks import streamingbench
from stc_lmms.benchmarks.streamingbench_data import Entry
from training.demo.questions import ACTIVITY, DIGITS, FAMILIES, Asked, ask, run_around
from training.demo.world import FRAME_S, World

# StreamingBench's task types, each asked by one of our families.
REAL_TYPES = {
    "Object Recognition": "OJR",
    "Attribute Recognition": "ATR",
    "Text-Rich Understanding": "OCR",
    "Spatial Understanding": "STU",
    "Action Recognition": "ACR",
    "Prospective Reasoning": "FPD",
    "Event Understanding": "EPM",
    "Clips Summarize": "ASI",
    "Counting": "REC",
}
OMNI_TYPES = {"Scene Understanding": "ATR", "Source Discrimination": "STU", "Multimodal Alignment": "EPM"}
CONTEXT_TYPES = {"Misleading Context Understanding": "HLD", "Anomaly Context Understanding": "ACR"}
COUNTED = f"How many times did they {ACTIVITY}?"
ON = "lit"
_WHEN_SIGN, _WHEN_LAMP = 'Output "{0}" once the sign shows {0}.', f'Output "{ON}" once the lamp is on.'
PROACTIVE_TEXTS = (_WHEN_SIGN.format(3), _WHEN_LAMP)


@dataclass(frozen=True)
class Proactive:
    """A request to say `output` as soon as it is true: asked after `frame`, true from frame `gold` on."""

    text: str
    output: str
    frame: int
    gold: int


def ask_choice(
    world: World, family: str, frame: int, rng: np.random.Generator, even: bool = False
) -> Asked | None:
    """A question with four options, also for counting; None for yes-no families."""
    if family in ("SSR", "CRR"):
        return None
    asked = ask(world, family, frame, rng, even)
    if asked is None or family != "REC":
        return asked
    count = int(asked.answer)
    if even:
        around = [text for text in run_around(count, rng) if text != asked.answer]
    else:
        around = [str(n) for n in range(max(0, count - 2), count + 4) if n != count][:5]
    chosen = [str(text) for text in rng.permutation(around)[:3]]
    options = tuple(str(text) for text in rng.permutation([asked.answer, *chosen]))
    return Asked("REC", frame, COUNTED, options, asked.answer)


def ask_proactive(world: World, rng: np.random.Generator, latest: int | None = None) -> Proactive | None:
    """A condition that is not true yet and becomes true for the first time at a later frame."""
    latest = world.frames - 1 if latest is None else latest
    gold = int(rng.integers(2, latest + 1))
    if rng.random() < 0.5:
        lights = np.flatnonzero(world.lit[: latest + 1])
        if not len(lights) or lights[0] < 2:
            return None
        text, output, gold = _WHEN_LAMP, ON, int(lights[0])
    else:
        digit = world.digit[gold]
        if digit in world.digit[:gold]:
            return None
        text, output = _WHEN_SIGN.format(digit), DIGITS[digit]
    return Proactive(text, output, int(rng.integers(0, gold - 1)), gold)


def entry(asked: Asked, part: str, task: str, video: str, index: int) -> Entry:
    """A question as a StreamingBench entry; its time is a whole second at which its frame is the newest."""
    seconds = int(asked.frame * FRAME_S) + 1
    return Entry(
        part=part,
        task=task,
        video=video,
        index=index,
        time_stamp=stamp(seconds),
        time_s=seconds,
        question=asked.text,
        options=tuple(asked.options),
        answer=asked.gold,
        gold_s=-1,
    )


def stamp(seconds: int) -> str:
    """Seconds as hours:minutes:seconds."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def prompt_of(asked: Asked, history: tuple[Asked, ...] | None = None) -> str:
    """The official prompt of the real-time part or, with a history (of any length), of the sequential one."""
    part = "real" if history is None else "sqa"
    past = [entry(one, part, "", "", i) for i, one in enumerate(history or ())]
    return streamingbench.prompt(entry(asked, part, "", "", len(past)), past)


def poll(asked: Proactive) -> tuple[str, str]:
    """The official poll, and the prompt that asks for the output."""
    question = streamingbench.PROACTIVE_POLL.format(asked.text, asked.output)
    return streamingbench.PROACTIVE_PROMPT.format(question), streamingbench.PROACTIVE_PROMPT.format(
        asked.text
    )


CHOICE_FAMILIES = tuple(family for family in FAMILIES if family not in ("SSR", "CRR"))
