"""MLVU-dev, EgoSchema (subset) and VideoMME as the ReKV drivers ask them: after the whole video.

One row per video; every question sees all of it, in the ReKV layout of question and options, and the answer
opens with `Best option: (`. The bare question is what a memory is searched by. Letter rule: ReKV's.

Two kinds of annotations become the same items: files in the layout of the ReKV repository (one entry per
video with its `conversations`), and rows of the datasets that lmms-eval uses (one per question).

The gold answer is a trap: a choice's text in MLVU (where "2" can be a choice), an index in EgoSchema (STC's
driver takes it for a text, so there its gold is always A), a letter in VideoMME.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from stc_lmms.benchmarks.base import (
    NO_TIME_S,
    Question,
    Record,
    Row,
    Verdict,
    make_row,
    strict_score,
)
from stc_lmms.benchmarks.base import score_row as base_score_row
from stc_lmms.benchmarks.fields import need, need_texts, need_video, short
from stc_lmms.benchmarks.mcq import REKV_OPENING, rekv_choice, rekv_question
from stc_lmms.benchmarks.summary import Summary
from stc_lmms.benchmarks.summary import summarise as base_summarise
from stc_lmms.errors import DataError

_OWN_LETTER = re.compile(r"\(?([A-H])[.):]\s*")
_OPTION_LINE = re.compile(r"\(([A-H])\)\s*(.*)")


class Item(NamedTuple):
    """One question: `answer` is a letter, `choices` are as they stand in the prompt."""

    video: str
    task: str
    question: str
    choices: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class OfflineSet:
    """One benchmark.

    Attributes:
        name: key in data and results.
        part: its only part.
        tasks: what the table lists, in this order.
        gold: what an annotation's `answer` is. A text is looked up among the choices first, and may be a
            letter where no choice reads like that (the hub's MLVU).
        own_letters: choices keep the letters that they are published with. The drivers' prompt for
            VideoMME reads `(A) A. text`; elsewhere a letter of the publisher is taken off.
    """

    name: str
    part: str
    tasks: tuple[str, ...]
    gold: Literal["text", "index", "letter"]
    own_letters: bool = False

    def build_rows(self, items: Iterable[Item]) -> list[Row]:
        """Return one row per video, videos in the order of their first question.

        Lengths of the videos are not known here, so rows cannot be balanced over ranks by length.
        """
        videos: dict[str, list[Item]] = {}
        for item in items:
            videos.setdefault(item.video, []).append(item)
        return [
            make_row(video, self.part, (_question(item, k) for k, item in enumerate(members, 1)))
            for video, members in videos.items()
        ]

    def score_row(
        self,
        row: Row,
        responses: Sequence[str | None],
        failures: Mapping[int, str] | None = None,
        efficiency: Mapping[int, Mapping[str, Any]] | None = None,
        notes: Mapping[int, str] | None = None,
        past_end: Collection[int] = (),
    ) -> list[Record]:
        """Score all questions of a row; see `base.score_row`."""
        return base_score_row(row, responses, judge, failures, efficiency, notes, past_end)

    def summarise(self, records: Iterable[Record]) -> Summary:
        """Summarise records. The headline pools the questions (micro), as in the papers of ReKV and STC."""
        return base_summarise(records, {self.part: self.tasks}, headline="micro")

    def read_videos(self, data: Any, where: str) -> list[Item]:
        """Return the items of a file in ReKV's layout: a list of videos, each with `conversations`.

        A question's task is its `question_type` or `task_type`, or the video's; of VideoMME the video's
        `duration`; else the folder of the video (`1_plotQA`).

        Raises:
            DataError: the first malformed entry.
        """
        if not isinstance(data, list) or not data:
            raise DataError(f"{where}: must be a non-empty list of videos, got {short(data)}")
        items: list[Item] = []
        for number, entry in enumerate(data):
            place = f"{where}: entry {number}"
            if not isinstance(entry, dict):
                raise DataError(f"{place}: must be an object, got {short(entry)}")
            video = need_video(entry, "video_path", place)
            for k, asked in enumerate(need(entry, "conversations", list, place)):
                spot = f"{place} ({video}): question {k}"
                if not isinstance(asked, dict):
                    raise DataError(f"{spot}: must be an object, got {short(asked)}")
                task = self._task(asked, entry, video)
                items.append(self._item(video, task, asked, need_texts(asked, "choices", 2, spot), spot))
        return _some(items, where)

    def read_hub(self, rows: Iterable[Mapping[str, Any]], where: str) -> list[Item]:
        """Return the items of the rows of the hub's dataset, one per question.

        Raises:
            DataError: the first malformed row.
        """
        video_field, choices_field = _HUB_FIELDS[self.name]
        items: list[Item] = []
        for number, row in enumerate(rows):
            place = f"{where}: row {number}"
            video, asked = need_video(row, video_field, place), dict(row)
            if choices_field in row:
                choices = need_texts(row, choices_field, 2, place)
                asked["question"] = _inline(need(row, "question", str, place))[0]
            else:
                asked["question"], choices = _inline(need(row, "question", str, place))
                if len(choices) < 2:
                    raise DataError(f"{place}: neither {choices_field!r} nor the question has options")
            items.append(self._item(video, self._task(row, {}, video), asked, choices, place))
        return _some(items, where)

    def _task(self, asked: Mapping[str, Any], entry: Mapping[str, Any], video: str) -> str:
        if len(self.tasks) == 1:
            return self.tasks[0]
        fields = ("duration",) if "short" in self.tasks else ("question_type", "task_type")
        folder = PurePosixPath(video).parent.name
        found = [source.get(field) for source in (asked, entry) for field in fields] + [folder]
        label = next((text for text in found if isinstance(text, str) and text), "unknown")
        # lmms-eval's rule: `findNeedle` and `2_needle` are both the task `needle`
        return next((task for task in self.tasks if task.lower() in label.lower()), label)

    def _item(
        self, video: str, task: str, asked: Mapping[str, Any], choices: Sequence[str], where: str
    ) -> Item:
        letter = self._letter(asked.get("answer"), choices, where)
        texts = tuple(choices if self.own_letters else _without_letters(choices))
        return Item(video, task, need(asked, "question", str, where), texts, letter)

    def _letter(self, answer: Any, choices: Sequence[str], where: str) -> str:
        letters = [chr(ord("A") + i) for i in range(len(choices))]
        if answer is None:
            raise DataError(f"{where}: field 'answer' is missing: without gold answers there is no score")
        if self.gold == "index":
            text = str(answer).strip()
            if isinstance(answer, int | str) and text.isdecimal() and int(text) < len(letters):
                return letters[int(text)]
            raise DataError(f"{where}: field 'answer' must be 0 to {len(letters) - 1}, got {short(answer)}")
        if self.gold == "text" and answer in choices:
            return letters[list(choices).index(answer)]
        if answer in letters:
            return answer
        wanted = "one of the choices" if self.gold == "text" else f"a letter up to {letters[-1]}"
        raise DataError(f"{where}: field 'answer' must be {wanted}, got {short(answer)}")


MLVU = OfflineSet(
    "mlvu",
    "dev",
    ("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count"),
    "text",
)
EGOSCHEMA = OfflineSet("egoschema", "subset", ("subset",), "index")
VIDEOMME = OfflineSet("videomme", "test", ("short", "medium", "long"), "letter", own_letters=True)
SETS = {found.name: found for found in (MLVU, EGOSCHEMA, VIDEOMME)}

# Names of the video and of the options in the hub's rows.
_HUB_FIELDS = {
    "mlvu": ("video_name", "candidates"),
    "egoschema": ("video_idx", "option"),
    "videomme": ("videoID", "options"),
}


def judge(question: Question, response: str, asked_s: float) -> Verdict:
    """Return ReKV's score (the letter before the first ")", else the first character) and the strict one."""
    return Verdict(int(rekv_choice(response) == question["answer"]), strict_score(question, response))


def _question(item: Item, number: int) -> Question:
    return {
        "qid": f"{item.video}:{number}",
        "task": item.task,
        "kind": "choice",
        "start_s": 0.0,
        "end_s": NO_TIME_S,
        "prompt": rekv_question(item.question, item.choices),
        "answer": item.answer,
        "follow_up": "",
        "gold_s": NO_TIME_S,
        "search": item.question,
        "opening": REKV_OPENING,
    }


def _inline(text: str) -> tuple[str, list[str]]:
    """Return a bare question and the options that stand below it, as the hub's MLVU has them.

    Only lines in the order (A), (B), ... at the end are options.
    """
    lines = text.strip().split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip().startswith("(A)")), len(lines))
    options = [_OPTION_LINE.fullmatch(line.strip()) for line in lines[first:]]
    if not all(match and match[1] == chr(ord("A") + i) for i, match in enumerate(options)):
        first, options = len(lines), []
    if first and lines[first - 1].strip() == "Options:":
        first -= 1
    question = "\n".join(lines[:first]).strip().removeprefix("Question:").strip()
    return question, [match[2] for match in options if match]


def _without_letters(choices: Sequence[str]) -> list[str]:
    """Return the choices without the letters before them, if every one has its own."""
    found = [_OWN_LETTER.match(choice) for choice in choices]
    if all(match and match[1] == chr(ord("A") + i) for i, match in enumerate(found)):
        return [choice[match.end() :] for choice, match in zip(choices, found, strict=True) if match]
    return list(choices)


def _some(items: list[Item], where: str) -> list[Item]:
    if not items:
        raise DataError(f"{where}: holds no questions")
    return items
