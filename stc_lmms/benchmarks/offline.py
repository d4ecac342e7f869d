"""Multiple-choice questions about a whole video, as the ReKV drivers ask them.

One row per video; every question sees all of it. The prompt is ReKV's list of question and options, and the
answer is prefilled with `Best option: (`. Retrieval uses the question without its options.

Annotations come in two forms and become the same items: files in the layout of the ReKV repository (one entry
per video with its `conversations`), and rows of the hub datasets that lmms-eval uses (one per question).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from stc_lmms.benchmarks.base import NO_TIME_S, Question, Row, Verdict, make_row, strict_score
from stc_lmms.benchmarks.benchmark import Benchmark, PublishedRun
from stc_lmms.benchmarks.fields import need, need_list, need_texts, need_video, read_json, short
from stc_lmms.data.hub import load_table
from stc_lmms.data.source import DataSource, Portion
from stc_lmms.errors import DataError

REKV_OPENING = "Best option: ("
_OWN_LETTER = re.compile(r"\(?([A-H])[.):]\s*")
_OPTION_LINE = re.compile(r"\(([A-H])\)\s*(.*)")
_VIDEO_ENDINGS = (".mp4", ".mkv", ".avi", ".mov", ".webm")


class Item(NamedTuple):
    """One question: `answer` is a letter, `choices` are as they appear in the prompt."""

    video: str
    task: str
    question: str
    choices: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Annotations:
    """How a benchmark writes its questions.

    Attributes:
        tasks: sub-tasks, in table order.
        gold: meaning of an annotation's `answer`; a text may also be a letter if no choice equals it.
        video_field: field of a hub row with the video.
        choices_field: field of a hub row with the options; if it is absent, they are part of the question.
        task_fields: fields that may name the sub-task.
        keep_letters: keep the letters that choices are published with; otherwise they are removed.
    """

    tasks: tuple[str, ...]
    gold: Literal["text", "index", "letter"]
    video_field: str
    choices_field: str
    task_fields: tuple[str, ...] = ("question_type", "task_type")
    keep_letters: bool = False

    def read_videos(self, data: Any, where: str) -> list[Item]:
        """Items of a file in ReKV's layout: a list of videos, each with `conversations`.

        A question's task is in its own fields or in those of the video, else it is the video's folder.
        """
        items: list[Item] = []
        for number, entry in enumerate(need_list(data, "videos", where)):
            place = f"{where}: entry {number}"
            video = need_video(entry, "video_path", place)
            for index, question in enumerate(need(entry, "conversations", list, place)):
                spot = f"{place} ({video}): question {index}"
                choices = need_texts(question, "choices", 2, spot)
                items.append(self._item(video, self._task(question, entry, video), question, choices, spot))
        return _require_some(items, where)

    def read_hub(self, rows: Iterable[Mapping[str, Any]], where: str) -> list[Item]:
        """Items of the rows of the hub dataset, one per question."""
        items: list[Item] = []
        for number, row in enumerate(rows):
            place = f"{where}: row {number}"
            video, question = need_video(row, self.video_field, place), dict(row)
            question["question"], choices = _split_options(need(row, "question", str, place))
            if self.choices_field in row:
                choices = need_texts(row, self.choices_field, 2, place)
            elif len(choices) < 2:
                raise DataError(f"{place}: neither {self.choices_field!r} nor the question has options")
            items.append(self._item(video, self._task(row, {}, video), question, choices, place))
        return _require_some(items, where)

    def _task(self, question: Mapping[str, Any], entry: Mapping[str, Any], video: str) -> str:
        if len(self.tasks) == 1:
            return self.tasks[0]
        labels = [fields.get(name) for fields in (question, entry) for name in self.task_fields]
        labels.append(PurePosixPath(video).parent.name)
        label = next((text for text in labels if isinstance(text, str) and text), "unknown")
        # As in lmms-eval: both `findNeedle` and `2_needle` are the task `needle`.
        return next((task for task in self.tasks if task.lower() in label.lower()), label)

    def _item(
        self, video: str, task: str, question: Mapping[str, Any], choices: Sequence[str], where: str
    ) -> Item:
        letter = self._letter(question.get("answer"), choices, where)
        texts = tuple(choices if self.keep_letters else _without_letters(choices))
        return Item(video, task, need(question, "question", str, where), texts, letter)

    def _letter(self, answer: Any, choices: Sequence[str], where: str) -> str:
        letters = [chr(ord("A") + i) for i in range(len(choices))]
        if answer is None:
            raise DataError(f"{where}: field 'answer' is missing: without gold answers there is no score")
        if self.gold == "index":
            text, expected = str(answer).strip(), f"0 to {len(letters) - 1}"
            if isinstance(answer, int | str) and text.isdecimal() and int(text) < len(letters):
                return letters[int(text)]
        else:
            expected = "one of the choices" if self.gold == "text" else f"a letter up to {letters[-1]}"
            if self.gold == "text" and answer in choices:
                return letters[list(choices).index(answer)]
            if answer in letters:
                return answer
        raise DataError(f"{where}: field 'answer' must be {expected}, got {short(answer)}")


def offline_benchmark(
    name: str,
    part: str,
    annotations: Annotations,
    *,
    published: PublishedRun,
    hub_id: str,
    question_file: str,
    download: str,
    video_folders: tuple[str, ...],
    video_endings: tuple[str, ...] = ("",),
    hub_config: str | None = None,
) -> Benchmark:
    """A benchmark with one part whose questions are asked after the whole video.

    The hub dataset, which lmms-eval's own task reads as well, is not used if the data root has the
    `question_file` in ReKV's layout. `download` says what to download, for an error message. Videos may lie
    in any of `video_folders`; `video_endings` are added to names without ending (both in preferred order).
    """
    variable = f"STC_{name.upper()}_ROOT"
    folder = f"{{to}}/{video_folders[0]}/" if video_folders[0] else "{to}/"
    manual = (
        f"download {download} of the hub dataset {hub_id}, unpack them so that {folder}<video> exist, "
        f"and set {variable}={{to}}; or, if lmms-eval's own task has run, set it to $HF_HOME/{name}"
    )

    def hub_annotations(root: Path) -> list[Item]:
        file = f"{question_file} (layout of the ReKV repository)"
        cure = f"put {file} into {root}, or load the dataset once while online"
        return annotations.read_hub(load_table(hub_id, hub_config, cure), f"the hub dataset {hub_id}")

    return Benchmark(
        name=name,
        parts={part: annotations.tasks},
        headline="micro",
        judge=judge,
        source=DataSource(name, variable, hub_id, {part: Portion(question_file)}, manual=manual),
        load_annotations=lambda path: annotations.read_videos(read_json(path), str(path)),
        build_rows=build_rows,
        video_candidates=partial(_candidates, video_folders, video_endings),
        hub_annotations=hub_annotations,
        timed=False,
        task=f"{name}_stream",
        published=published,
    )


def build_rows(items: Iterable[Item], part: str) -> list[Row]:
    """One row per video, in the order of their first questions; rows are not balanced by video length."""
    videos: dict[str, list[Item]] = {}
    for item in items:
        videos.setdefault(item.video, []).append(item)
    return [
        make_row(video, part, (_question(item, number) for number, item in enumerate(members, 1)))
        for video, members in videos.items()
    ]


def judge(question: Question, response: str, asked_s: float) -> Verdict:
    """ReKV's score and the strict one."""
    return Verdict(int(rekv_choice(response) == question["answer"]), strict_score(question, response))


def rekv_question(question: str, choices: Sequence[str]) -> str:
    """Question and choices in ReKV's layout, letters in parentheses."""
    lines = "".join(f"({chr(ord('A') + i)}) {choice}\n" for i, choice in enumerate(choices))
    return f"Question: {question}\nOptions:\n{lines}Only give the best option."


def rekv_choice(text: str) -> str:
    """The letter that ReKV reads in an answer: the character before the first ")", else the first one.

    Raises:
        IndexError: empty text, as in ReKV.
    """
    text = text.strip()
    position = text.find(")")
    return text[0] if position < 0 else text[max(position - 1, 0) : position]


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


def _candidates(folders: Sequence[str], endings: Sequence[str], video: str) -> list[str]:
    """Candidate paths of a video.

    Annotations name it with or without ending, and with folders of the annotator's own machine in front
    (`data/videos/1_plotQA/movie.mp4`).
    """
    parts = PurePosixPath(video).parts
    names = ["/".join(parts[start:]) for start in range(len(parts))]
    if not names[-1].lower().endswith(_VIDEO_ENDINGS):
        names = [name + ending for ending in endings for name in names]
    return [str(PurePosixPath(folder) / name) for name in names for folder in folders]


def _split_options(text: str) -> tuple[str, list[str]]:
    """Split a question from the options below it: the lines (A), (B), ... at its end."""
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
    """Remove the letters before the choices, if every choice has its own."""
    found = [_OWN_LETTER.match(choice) for choice in choices]
    if all(match and match[1] == chr(ord("A") + i) for i, match in enumerate(found)):
        return [choice[match.end() :] for choice, match in zip(choices, found, strict=True) if match]
    return list(choices)


def _require_some(items: list[Item], where: str) -> list[Item]:
    if not items:
        raise DataError(f"{where}: holds no questions")
    return items
