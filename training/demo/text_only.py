"""Text-only baseline: a guesser that has read many questions and sees no video.

    python -m training.demo.text_only --json FILE

prints its accuracy on the mini benchmarks. The guesser knows how often each kind of option was right under
the same wording in other worlds. A kind is what the text alone shows: the position in a run of numbers, the
motion, whether the question names it.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from training.demo.questions import FAMILIES, OPTIONS, UNABLE, Asked, ask
from training.demo.streaming_questions import REAL_TYPES, ask_choice
from training.demo.world import COLOR_NAMES, MOTIONS, SHAPES, make_world

MINI = Path(__file__).resolve().parents[2] / "tasks" / "mini_data"
SEED, WORLDS = 51, 2000  # its questions; training, evaluation and the mini sets use other seeds

_NAMES = re.compile("|".join([*COLOR_NAMES, *SHAPES, r"\d+"]))
YES_NO = ("Yes", "No")


class TextOnly:
    """Fitted on questions with their answers.

    Args:
        asked: many questions of other worlds.
    """

    def __init__(self, asked: Iterable[Asked]):
        self._right: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._offered: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for one in asked:
            wording = _wording(one)
            for option in _options(one):
                kind = _kind(one, option)
                self._offered[wording][kind] += 1
                self._right[wording][kind] += option == one.answer

    def guess(self, one: Asked) -> str:
        """The option whose kind was right most often."""
        right, offered = self._right[_wording(one)], self._offered[_wording(one)]
        options = _options(one) or tuple(right) or YES_NO

        def likely(option: str) -> float:
            kind = _kind(one, option)
            return (right[kind] + 1) / (offered[kind] + 4)

        return max(options, key=likely)

    def accuracy(self, asked: Iterable[Asked]) -> float:
        """Share of questions it answers correctly."""
        found = [self.guess(one) == one.answer for one in asked]
        return sum(found) / len(found)


def reader(even: bool = True) -> TextOnly:
    """A guesser fitted on the questions of `WORLDS` other worlds, drawn with or without `even`."""
    return TextOnly(_read(even))


def _read(even: bool) -> Iterator[Asked]:
    for number in range(WORLDS):
        world, rng = make_world(SEED, number, 16), np.random.default_rng([SEED, number])
        for family in FAMILIES:
            frame = int(rng.integers(3, world.frames))
            found = [ask(world, family, frame, rng, even)]
            found += [ask_choice(world, family, frame, rng, even)] if family == "REC" else []
            yield from filter(None, found)


def mini(folder: Path = MINI) -> dict[str, list[Asked]]:
    """Questions of the mini sets by family of OVO-Bench, with StreamingBench as a family of its own."""
    found: dict[str, list[Asked]] = {family: [] for family in FAMILIES}
    for row in json.loads((folder / "ovo_bench_mini.json").read_text("utf-8")):
        found[row["task"]] += _asked(row)
    entries = json.loads((folder / "questions_real.json").read_text("utf-8"))
    found["StreamingBench"] = [_chosen(question) for entry in entries for question in entry["questions"]]
    return found


def _asked(row: dict[str, Any]) -> Iterator[Asked]:
    family = row["task"]
    if "options" in row:
        yield Asked(family, 0, row["question"], tuple(row["options"]), row["answer"])
        return
    for info in row["test_info"]:
        text = row["activity"] if family == "REC" else info.get("step", row.get("question"))
        answer = str(info["count"]) if family == "REC" else YES_NO[1 - info["type"]]
        yield Asked(family, 0, text, (), answer)


def _chosen(question: dict[str, Any]) -> Asked:
    options = tuple(option.split(". ", 1)[1] for option in question["options"])
    answer = options[ord(question["answer"]) - ord("A")]
    return Asked(REAL_TYPES[question["task_type"]], 0, question["question"], options, answer)


def _wording(one: Asked) -> tuple[str, str]:
    run = _run(one)
    return one.family, _NAMES.sub("X", one.text) + str([number - run[0] for number in run])


def _options(one: Asked) -> tuple[str, ...]:
    if one.options:
        return one.options
    return tuple(map(str, range(10))) if one.family == "REC" else YES_NO


def _run(one: Asked) -> list[int]:
    """The numeric options in the order in which the sign counts: 9 is followed by 0, counted as 10."""
    numbers = sorted(int(text) for text in one.options if text.isdigit())
    turned = next((k for k in range(1, len(numbers)) if numbers[k] - numbers[k - 1] > OPTIONS - 1), 0)
    return numbers[turned:] + [number + 10 for number in numbers[:turned]]


def _kind(one: Asked, option: str) -> str:
    if option in (UNABLE, *YES_NO) or option in MOTIONS or not one.options:
        return option
    if option.isdigit():
        return str((int(option) - _run(one)[0]) % 10)
    return "named" if option in one.text else "other"


def main() -> None:
    """Print a line per family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    guesser, rows = reader(), {}
    for family, asked in mini().items():
        often = Counter(one.answer for one in asked).most_common(1)[0]
        rows[family] = {
            "n": len(asked),
            "text_alone": guesser.accuracy(asked),
            "one_answer": often[1] / len(asked),
            "which": often[0],
        }
        print(
            f"{family:<16}{len(asked):>5}  text alone {100 * rows[family]['text_alone']:5.1f}  "
            f"always {often[0]!r} {100 * often[1] / len(asked):5.1f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
