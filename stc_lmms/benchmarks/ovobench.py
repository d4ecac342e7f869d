"""OVO-Bench (JoeLeelyf/OVO-Bench): annotations, prompts and official scoring.

Twelve tasks in three modes. A multiple-choice row is one question at its `realtime`; a forward row (REC, SSR,
CRR) is one question per entry of `test_info`. The official evaluation cuts one chunk file per question; here
the questions of one source video form one row, and a question at time t sees [0, ceil(t)).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stc_lmms.benchmarks.base import NO_TIME_S, Question, Row, Verdict, make_row, order_rows, strict_score
from stc_lmms.benchmarks.benchmark import Benchmark, Chunks, PublishedRun
from stc_lmms.benchmarks.fields import need, need_list, need_texts, need_video, read_json
from stc_lmms.data.hub import load_table
from stc_lmms.data.source import DataSource, Portion
from stc_lmms.errors import DataError

MODES: dict[str, tuple[str, ...]] = {
    "backward": ("EPM", "ASI", "HLD"),
    "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": ("REC", "SSR", "CRR"),
}
MODE_OF = {task: mode for mode, tasks in MODES.items() for task in tasks}
FORWARD_TASKS = frozenset(MODES["forward"])
HUB_ROWS = "kcz358/OVOBench"  # a copy of the annotations, one configuration per mode


def _portion(videos: str, last: str, size: str, name: str) -> Portion:
    parts = tuple(f"{videos}.tar.parta{chr(code)}" for code in range(ord("a"), ord(last) + 1))
    return Portion("ovo_bench_new.json", (parts,), size, f"{videos}/{name}")


SOURCE = DataSource(
    name="ovobench",
    variable="STC_OVOBENCH_ROOT",
    hub_id="JoeLeelyf/OVO-Bench",
    portions={
        "src": _portion("src_videos", "e", "about 44 GB", "<video>"),
        "chunked": _portion("chunked_videos", "o", "about 144 GB", "<id>.mp4"),
    },
    licence="CC BY-NC-SA 4.0",
    questions_url="https://raw.githubusercontent.com/JoeLeelyf/OVO-Bench/main/data/",
    question_folders=("", "data"),
)

# Byte for byte, with the benchmark's own spelling, trailing spaces and typographic quotes.
CHOICE_PROMPT = (
    "\nQuestion: {}\nOptions:\n{}\n\n"
    "Respond only with the letter corresponding to your chosen option (e.g., A, B, C). \n"
    "Do not include any additional text or explanation in your response.\n"
)
REC_PROMPT = (
    "\nYou're watching a video in which people may perform a certain type of action repetively. \n"
    "The person performing this kind of action are referred to as 'they' in the following statement.\n"
    "You're task is to count how many times have different people in the video perform this kind of action"
    " in total.\n"
    "One complete motion counts as one. \n"
    "Now, answer the following question: {}\n"
    "Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.\n"
    "Do not include any additional text or explanation in your response.\n"
)
SSR_PROMPT = (
    "\nYou're watching a tutorial video which contain a sequential of steps. \n"
    "The following is one step from the whole procedures: \n{}\n"
    "Your task is to determine if the man or woman in the video is currently performing this step.\n"
    "Answer only with “Yes” or “No”.\n"
    "Do not include any additional text or explanation in your response.\n"
)
CRR_PROMPT = (
    "\nYou're responsible of answering questions based on the video content. \n"
    "The following question are relevant to the latest frames, i.e. the end of the video.\n{}\n"
    "Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the"
    " video, provide enough information for answering the question.\n"
    "Answer only with “Yes” or “No”.\n"
    "Do not include any additional text or explanation in your response.\n"
)


def load_annotations(path: str | Path) -> list[dict[str, Any]]:
    """The checked rows of `ovo_bench_new.json`, or of a subset in the same schema."""
    return check_annotations(need_list(read_json(path), "rows", str(path)), str(path))


def hub_annotations(root: Path) -> list[dict[str, Any]]:
    """Rows ordered by `id` from the copy on the dataset hub; `root` appears in the error message.

    Raises:
        DataError: the dataset is unreachable, or its rows lack fields of the original (e.g. `video`).
    """
    file, command = SOURCE.portions["src"].questions, SOURCE.fetch_command("src", root)
    cure = f"download {SOURCE.questions_url}{file} and put it at {root}, or run {command} for the videos, too"
    rows = [_without_none(row) for mode in MODES for row in load_table(HUB_ROWS, mode, cure)]
    try:
        return sorted(check_annotations(rows, f"the hub dataset {HUB_ROWS}"), key=lambda row: row["id"])
    except DataError as error:
        raise DataError(f"{error}; {cure}") from error


def check_annotations(rows: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """The rows, if all are well formed and their ids differ; else a DataError about the first bad one."""
    seen: set[int] = set()
    for index, row in enumerate(rows):
        place = f"{where}: row number {index}"
        row_id = need(row, "id", int, place)
        place = f"{where}: row id {row_id}"
        if row_id in seen:
            raise DataError(f"{place}: this id occurs twice")
        seen.add(row_id)
        _check_row(row, place)
    return list(rows)


def build_rows(annotations: Iterable[Mapping[str, Any]], part: str) -> list[Row]:
    """One row per source video with all its questions of a mode; annotations may be in any order."""
    videos: dict[str, list[Question]] = {}
    for row in annotations:
        if MODE_OF[row["task"]] == part:
            videos.setdefault(row["video"], []).extend(questions_of(row))
    return order_rows(make_row(video, part, questions) for video, questions in videos.items())


def questions_of(row: Mapping[str, Any]) -> list[Question]:
    """Questions of one annotation row, forward rounds in file order."""
    if row["task"] in FORWARD_TASKS:
        return [_question(row, index) for index in range(len(row["test_info"]))]
    return [_question(row, None)]


def prompt(row: Mapping[str, Any], round_index: int | None = None) -> str:
    """The official prompt of a multiple-choice row, or of one round of a forward row."""
    task = row["task"]
    if task == "REC":
        return REC_PROMPT.format(f"How many times did they {row['activity']}?")
    if task == "SSR":
        return SSR_PROMPT.format(row["test_info"][round_index or 0]["step"])
    if task == "CRR":
        return CRR_PROMPT.format(row["question"])
    options = " ".join(f"{chr(ord('A') + i)}. {option};" for i, option in enumerate(row["options"]))
    return CHOICE_PROMPT.format(row["question"], options)


def chunk_name(row_id: int, round_index: int | None = None) -> str:
    """File name of the published chunk of a row or round."""
    return f"{row_id}.mp4" if round_index is None else f"{row_id}_{round_index}.mp4"


def gold(row: Mapping[str, Any], round_index: int | None = None) -> str:
    """The gold answer: a letter, a number or Yes/No.

    The letter is that of `gt`: in a quarter of the rows the text in `answer` is not among the options.
    """
    if row["task"] not in FORWARD_TASKS:
        return chr(ord("A") + row["gt"])
    info = row["test_info"][round_index or 0]
    return str(info["count"]) if row["task"] == "REC" else ("Yes" if info["type"] else "No")


def official_score(kind: str, answer: str, response: str | None) -> int:
    """1 or 0 by the official scorer, which looks for substrings and is case-sensitive.

    A `choice` needs the gold letter anywhere in the (not stripped) response; a `count`, that all digits
    joined equal it; `yesno`, the gold word anywhere, or exactly its initial.
    """
    if response is None:
        return 0
    if kind == "count":
        return int("".join(re.findall(r"\d+", response)) == answer)
    return int(answer in response or (kind == "yesno" and response == answer[0]))


def judge(question: Question, response: str, asked_s: float) -> Verdict:
    """The official and the strict score of a response."""
    official = official_score(question["kind"], question["answer"], response)
    return Verdict(official, strict_score(question, response))


def video_candidates(video: str) -> list[str]:
    """Paths relative to the data root where a video may lie, best first."""
    return [f"src_videos/{video}", video, f"data/src_videos/{video}", f"videos/{video}"]


def _question(row: Mapping[str, Any], round_index: int | None) -> Question:
    task, timed = row["task"], row if round_index is None else row["test_info"][round_index]
    return {
        "qid": str(row["id"]) if round_index is None else f"{row['id']}:{round_index}",
        "task": task,
        "kind": "choice" if round_index is None else "count" if task == "REC" else "yesno",
        "start_s": 0.0,
        "end_s": float(math.ceil(timed["realtime"])),  # not clamped to the video
        "prompt": prompt(row, round_index),
        "answer": gold(row, round_index),
        "follow_up": "",
        "gold_s": NO_TIME_S,
    }


def _check_row(row: Mapping[str, Any], where: str) -> None:
    task = need(row, "task", str, where)
    if task not in MODE_OF:
        raise DataError(f"{where}: field 'task' must be one of {', '.join(MODE_OF)}, got {task!r}")
    need_video(row, "video", where)
    if task in FORWARD_TASKS:
        _check_rounds(row, task, where)
        return
    _check_time(row, where)
    need(row, "question", str, where)
    options = need_texts(row, "options", 2, where)
    index = need(row, "gt", int, where)
    if not 0 <= index < len(options):
        raise DataError(f"{where}: field 'gt' must be 0 to {len(options) - 1}, got {index}")


def _check_rounds(row: Mapping[str, Any], task: str, where: str) -> None:
    if task != "SSR":
        need(row, "activity" if task == "REC" else "question", str, where)
    infos = need(row, "test_info", list, where)
    if not infos:
        raise DataError(f"{where}: field 'test_info' is empty")
    for index, info in enumerate(infos):
        place = f"{where}: test_info[{index}]"
        _check_time(info, place)
        if task == "SSR":
            need(info, "step", str, place)
        field = "count" if task == "REC" else "type"
        value = need(info, field, int, place)
        if value < 0 or (field == "type" and value > 1):
            expected = "0 or more" if task == "REC" else "0 or 1"
            raise DataError(f"{place}: field {field!r} must be {expected}, got {value}")


def _check_time(row: Mapping[str, Any], where: str) -> None:
    seconds = need(row, "realtime", (int, float), where)
    if not 0 < seconds < math.inf:
        raise DataError(f"{where}: field 'realtime' must be a positive number of seconds, got {seconds}")


def _without_none(value: Any) -> Any:
    """Drop the fields that a table adds to rows that lack them."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


BENCHMARK = Benchmark(
    name="ovobench",
    parts=MODES,
    headline="macro",  # the mean over the modes of the means over their tasks
    judge=judge,
    source=SOURCE,
    load_annotations=load_annotations,
    build_rows=build_rows,
    video_candidates=video_candidates,
    portions=dict.fromkeys(MODES, "src"),
    mini_questions="ovo_bench_mini.json",
    mini_parts=tuple(MODES),
    tiny_parts=tuple(MODES),
    hub_annotations=hub_annotations,
    chunks=Chunks("chunked", lambda qid: f"chunked_videos/{chunk_name(*map(int, qid.split(':')))}"),
    task="ovobench_stream",
    vlmeval_class="OVOBench",
    published=PublishedRun("OVO-Bench", 3035, builtin_task="ovobench"),
)
