"""Stage 2b: batches and losses of the language model.

Besides the answer's token, a question has targets for the answer's word where the options begin, and at every
option for its letter if it is right, else "No". Visual tokens have targets that depend on time: motion, order
and age of a thing, flashes so far, the sign's next number. These helpers exist only in training.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stc_lmms.models.llava_onevision.prompt import REKV_PREFIX, REKV_SUFFIX
from training.demo.clips import LAMP, NOW, SIGN, Clip, Line, draw, draw_sequences, drill
from training.demo.language import Batch, PackedQwen2
from training.demo.questions import DIGITS, FAMILIES, QUARTERS
from training.demo.world import COLOR_NAMES, MOTIONS, SHAPES

CHAT_HEAD, CHAT_TAIL = "<|im_start|>user ", "\n{question}<|im_end|><|im_start|>assistant\n"
READ_AFTER = 3
TIMELY = {"motion": 5, "order": 8, "age": 8, "flashes": 10, "next": 10}
WEIGHTS = {"answer": 1.0, "end": 0.05, "word": 0.75, "letters": 1.5, "timely": 0.3}
VISUAL_PER_STEP, QUESTIONS_PER_STEP, DRILLS_PER_STEP = 76, 100, 240  # frames, questions, drills
DRILLS = [SHAPES, COLOR_NAMES, QUARTERS, DIGITS, MOTIONS]


@dataclass(frozen=True)
class Phase:
    """Steps with the same mixture of data.

    Attributes:
        steps: number of steps.
        lengths: (shortest, longest) video in frames -> its share.
        families: families of questions.
        drills: share of steps without any video.
        sequences: share of steps whose questions follow others (StreamingBench's sequential part).
        rate: factor on the highest learning rate.
    """

    steps: int
    lengths: dict[tuple[int, int], float]
    families: tuple[str, ...] = FAMILIES
    drills: float = 0.03
    sequences: float = 0.0
    rate: float = 0.45


PHASES = (
    Phase(120, {}, drills=1.0, rate=1.0),
    Phase(600, {(4, 4): 1.0}, NOW, drills=0.12),
    Phase(800, {(6, 10): 1.0}, drills=0.06),
    Phase(1300, {(6, 8): 0.3, (9, 16): 0.6, (20, 32): 0.1}, sequences=0.02),
    Phase(580, {(8, 16): 0.55, (17, 32): 0.28, (33, 60): 0.17}, drills=0.02, sequences=0.04),
)


class Timely(nn.Module):
    """Read-outs on visual tokens; motion also uses the language model's own word directions."""

    def __init__(self, width: int):
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(width, count) for name, count in TIMELY.items()})


@dataclass
class Lesson:
    """A batch with everything the losses need; indices are into the flattened questions or visual tokens."""

    batch: Batch
    families: list[str]
    answer_at: Tensor  # int64 [N], position of the last prompt token
    answer: Tensor  # int64 [N]
    word_at: list[tuple[int, int]] = field(default_factory=list)  # (question, position)
    word: list[int] = field(default_factory=list)
    letter_at: list[tuple[int, int]] = field(default_factory=list)
    letter: list[int] = field(default_factory=list)
    timely: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


class Teacher:
    """Makes lessons; each depends only on the seed and the step."""

    def __init__(self, tokenizer, clips: dict[int, list[Clip]], seed: int):
        self.tokenizer, self.clips, self.seed = tokenizer, clips, seed
        self.ids = tokenizer.get_vocab()
        self.end = self.ids["<|im_end|>"]
        self.skill = dict.fromkeys(FAMILIES, 0.3)

    def mark(self, counts: dict[str, tuple[int, int]]) -> None:
        """Update the skill from (right, asked) per family; families with high skill are asked less often."""
        for family in FAMILIES:
            hits, count = counts.get(family, (0, 0))
            if count:
                self.skill[family] += 0.08 * min(1.0, count / 8) * (hits / count - self.skill[family])

    def _shares(self, families: tuple[str, ...]) -> dict[str, float]:
        return {family: max(0.15, 1.1 - self.skill[family]) for family in families}

    def lesson(self, step: int, phase: Phase) -> Lesson:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, 21, step])
        if rng.random() < phase.drills:
            lines = [drill(rng, DRILLS) for _ in range(DRILLS_PER_STEP)]
            return self._assemble([None], [lines], rng)
        spans = list(phase.lengths)
        low, high = spans[rng.choice(len(spans), p=list(phase.lengths.values()))]
        frames = int(rng.integers(low, high + 1))
        count = max(1, round(VISUAL_PER_STEP / frames))
        each = round(QUESTIONS_PER_STEP / count)
        sequences = rng.random() < phase.sequences
        found = [self._clip(frames, rng) for _ in range(count)]
        lines = []
        for clip, kept in found:
            times = np.flatnonzero(kept.any(1))
            times = times[times >= min(2, frames - 1)] if len(times) > 3 else times
            if sequences:
                lines.append(draw_sequences(clip.world, times, max(1, each // 3), rng))
            else:
                lines.append(draw(clip.world, times, each, self._shares(phase.families), rng))
        return self._assemble(found, lines, rng)

    def _clip(self, frames: int, rng: np.random.Generator) -> tuple[Clip, np.ndarray]:
        """A window of a clip, and a mask of its kept tokens, bool [F,36]."""
        length = min(size for size in self.clips if size >= frames)
        clips = self.clips[length]
        clip = clips[rng.integers(len(clips))]
        at_start = frames > 4 and rng.random() < 0.6  # questions about order need the beginning
        clip = clip.window(0 if at_start else int(rng.integers(length - frames + 1)), frames)
        return clip, keep(clip.thing, rng)

    def _assemble(self, found: list, lines: list[list[Line]], rng: np.random.Generator) -> Lesson:
        chat = rng.random() < 0.8
        head, tail = (CHAT_HEAD, CHAT_TAIL) if chat else (REKV_PREFIX, REKV_SUFFIX)
        flat = [one for some in lines for one in some]
        texts = [tail.replace("{question}", one.prompt) for one in flat]
        rows = self.tokenizer(texts, add_special_tokens=False).input_ids
        answers = [self._id(one.answer) for one in flat]
        length = max(map(len, rows)) + 1
        ids = torch.full((len(flat), length), self.end)
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            ids[i, : len(row) + 1] = torch.tensor([*row, answer])
        visual, seen, timely = self._visual(found, lines)
        head_ids = torch.tensor(self.tokenizer(head, add_special_tokens=False).input_ids)
        newline = chat and visual.shape[1] > 0  # a drill has no video, and so no newline after it
        batch = Batch(head_ids, visual, seen, ids.unflatten(0, (len(lines), -1)), newline)
        lesson = Lesson(
            batch,
            [one.family for one in flat],
            torch.tensor([len(row) - 1 for row in rows]),
            torch.tensor(answers),
            timely=timely,
        )
        for i, (one, row) in enumerate(zip(flat, rows, strict=True)):
            self._help(lesson, i, one, row)
        return lesson

    def _help(self, lesson: Lesson, i: int, one: Line, row: list[int]) -> None:
        if not one.options:
            return
        begin = len(row) - 1 - row[::-1].index(self.ids["Options"])
        lesson.word_at.append((i, begin))
        lesson.word.append(self._id(one.right))
        for n, option in enumerate(one.options):
            lesson.letter_at.append((i, begin + 2 * n + 2))
            lesson.letter.append(self.ids["ABCD"[n]] if option == one.right else self.ids["No"])

    def _id(self, word: str) -> int:
        return self.ids[word]

    def _visual(self, found: list, lines: list[list[Line]]) -> tuple[Tensor, Tensor, dict]:
        if found[0] is None:
            return torch.zeros(1, 0, 192), torch.zeros(1, len(lines[0]), dtype=torch.long), {}
        places = [np.flatnonzero(kept) for _, kept in found]
        most = max(map(len, places))
        visual = torch.zeros(len(found), most, found[0][0].tokens.shape[-1])
        seen = torch.zeros(len(found), len(lines[0]), dtype=torch.long)
        labels: dict[str, list[np.ndarray]] = {name: [] for name in TIMELY}
        for b, ((clip, kept), place) in enumerate(zip(found, places, strict=True)):
            visual[b, : len(place)] = clip.tokens.flatten(0, 1)[torch.from_numpy(place)].float()
            upto = np.cumsum(kept.sum(1))
            seen[b] = torch.from_numpy(upto[[one.frame for one in lines[b]]])
            for name, values in timely_labels(clip).items():
                row = np.full(most, -1)
                row[: len(place)] = values.reshape(-1)[place]
                labels[name].append(row)
        return visual, seen, {name: np.stack(rows) for name, rows in labels.items()}


def keep(thing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mask of kept visual tokens, bool [F,36]: all, or a part as in a compressed stream.

    Half of the clips keep everything. Of the others some keep the same number of tokens in each frame, at
    random or objects first, and some keep whole frames, always including the newest.
    """
    frames, tokens = thing.shape
    if rng.random() < 0.5:
        return np.ones((frames, tokens), bool)
    form, part = rng.random(), rng.uniform(0.2, 1.0)
    if form < 0.25:
        whole = rng.random(frames) < part
        whole[-1] = True
        return np.repeat(whole[:, None], tokens, 1)
    count = max(4, round(part * tokens))
    order = rng.random((frames, tokens))
    if form < 0.8:
        order += (thing >= 0) * rng.uniform(0.2, 1.0)
    kept = np.zeros((frames, tokens), bool)
    np.put_along_axis(kept, np.argsort(-order, 1)[:, :count], True, 1)
    return kept


def timely_labels(clip: Clip) -> dict[str, np.ndarray]:
    """Labels of every visual token, int [F,36]; -1 for no label."""
    world, thing = clip.world, clip.thing.astype(int)
    frame = np.arange(world.frames)[:, None]
    is_object, k = (thing >= 0) & (thing < SIGN), np.clip(thing, 0, len(world.shape) - 1)
    first = world.first_seen
    order = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    turns = np.flatnonzero(np.diff(world.digit))
    way = (world.digit[turns[0] + 1] - world.digit[turns[0]]) % 10 if len(turns) else 0
    known = (frame > turns[0]) if len(turns) else np.zeros_like(frame, bool)
    found = {
        "motion": np.where(is_object, world.motion[k, frame], -1),
        "order": np.where(is_object, order[k], -1),
        "age": np.where(is_object, np.minimum(frame - first[k], 7), -1),
        "flashes": np.where(thing == LAMP, np.cumsum(world.lit)[:, None], -1),
        "next": np.where((thing == SIGN) & known, ((world.digit + way) % 10)[:, None], -1),
    }
    found["age"] = np.where(thing >= SIGN, np.minimum(frame, 7), found["age"])
    return found


def losses(
    model: PackedQwen2, timely: Timely, lesson: Lesson, motions: Tensor, end: int
) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of all losses, and its parts."""
    hidden, read = model(lesson.batch, READ_AFTER)
    flat = hidden.flatten(0, 1)
    number = torch.arange(len(flat))
    word_at, letter_at = (torch.tensor(at).reshape(-1, 2) for at in (lesson.word_at, lesson.letter_at))
    rows = torch.cat(
        (
            flat[number, lesson.answer_at],
            flat[number, lesson.answer_at + 1],
            flat[word_at[:, 0], word_at[:, 1]],
            flat[letter_at[:, 0], letter_at[:, 1]],
        )
    )
    goals = torch.cat(
        (
            lesson.answer,
            torch.full_like(lesson.answer, end),
            torch.tensor(lesson.word, dtype=torch.long),
            torch.tensor(lesson.letter, dtype=torch.long),
        )
    )
    logits = model.lm_head(rows).float()
    losses_N = functional.cross_entropy(logits, goals, reduction="none")
    sizes = [len(flat), len(flat), len(lesson.word), len(lesson.letter)]
    parts = {
        name: part.sum() / max(1, size)
        for name, part, size in zip(
            ("answer", "end", "word", "letters"), losses_N.split(sizes), sizes, strict=True
        )
    }
    if lesson.timely:
        parts["timely"] = _timely_loss(model, timely, read, lesson.timely, motions)
    total = sum(WEIGHTS[name] * part for name, part in parts.items())
    right = logits.argmax(-1) == goals
    report = {name: round(part.item(), 3) for name, part in parts.items()}
    return total, report | _shares(lesson, right[: len(flat)])


def _timely_loss(model, timely, read, labels, motions) -> Tensor:
    total = torch.zeros(())
    for name, values in labels.items():
        goal = torch.from_numpy(values)
        use = goal >= 0
        if not use.any():
            continue
        rows = read[use]
        logits = timely.maps[name](rows).float()
        total = total + functional.cross_entropy(logits, goal[use])
        if name == "motion":
            words = (rows @ model.lm_head.weight[motions].T.to(rows.dtype)).float()
            total = total + functional.cross_entropy(words, goal[use])
    return total


def _shares(lesson: Lesson, right: Tensor) -> dict[str, float]:
    count, hits = Counter(lesson.families), Counter()
    for family, hit in zip(lesson.families, right.tolist(), strict=True):
        hits[family] += hit
    return {family: (hits[family], count[family]) for family in count}
