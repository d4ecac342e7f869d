"""StreamingBench's files: both annotation formats (repository JSON, hub CSV), and where its videos lie."""

import ast
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from stc_lmms.benchmarks.base import NO_TIME_S
from stc_lmms.benchmarks.fields import need, need_list, need_texts, need_video, read_json, read_text, short
from stc_lmms.data.source import DataSource, Portion
from stc_lmms.errors import DataError

TASKS: dict[str, tuple[str, ...]] = {
    "real": (
        "Object Recognition",
        "Causal Reasoning",
        "Clips Summarize",
        "Attribute Recognition",
        "Event Understanding",
        "Text-Rich Understanding",
        "Prospective Reasoning",
        "Spatial Understanding",
        "Action Recognition",
        "Counting",
    ),
    "omni": ("Emotion Recognition", "Scene Understanding", "Source Discrimination", "Multimodal Alignment"),
    "contextual": ("Misleading Context Understanding", "Anomaly Context Understanding"),
    "sqa": ("Sequential Question Answering",),
    "proactive": ("Proactive Output",),
}

_TASK_ALIASES = {
    "object perception": "Object Recognition",
    "attribute perception": "Attribute Recognition",
    "action perception": "Action Recognition",
    "clips summarization": "Clips Summarize",
    "misleading context recognition": "Misleading Context Understanding",
    "real-time visual understanding": "Real-Time Visual Understanding",
}
_TASK_NAMES = {task.lower(): task for tasks in TASKS.values() for task in tasks} | _TASK_ALIASES
_VIDEO_NAME = re.compile(r"sample_(\d+)_(.+?)(?:_\d+-\d+)?\.mp4")
_SAMPLE_MEMBER = re.compile(r"(?:.*/)?(sample_\d+)(?:/video)?\.mp4")
_QUESTION_ID = re.compile(r"(.*?)(?:_?sample)?_(\d+)_(\d+)")
_FIELD = re.compile(r"\s*\d{1,9}(\.\d*)?\s*", re.ASCII)


class _Folder(NamedTuple):
    """A folder of samples: the videos of one task (`real`: of all its tasks).

    Attributes:
        name: as in the zip names.
        suffix: of the flat video names.
        samples, per_zip: number of samples and samples per zip; 0: one zip without a range in its name.
    """

    name: str
    part: str
    suffix: str
    samples: int = 0
    per_zip: int = 0

    @property
    def portion(self) -> str:
        """Portion that is downloaded."""
        return "omni" if self.part == "contextual" else self.part

    @property
    def archives(self) -> tuple[tuple[str, ...], ...]:
        """Its zips; their names have the range of their samples."""
        numbers = range(1, self.samples + 1, self.per_zip) if self.per_zip else (1,)
        return tuple((f"{self.name}{self.range_of(number)}.zip",) for number in numbers)

    def range_of(self, number: int) -> str:
        """Range of the zip that contains a sample (`_51-100`); "" if there is only one zip."""
        first = (number - 1) // self.per_zip * self.per_zip + 1 if self.per_zip else 0
        return f"_{first}-{first + self.per_zip - 1}" if first else ""


_SPLIT = {"Scene Understanding": (50, 25)}
_FOLDERS = (
    _Folder("Real-Time Visual Understanding", "real", "real", 500, 50),
    _Folder("Sequential Question Answering", "sqa", "sqa", 50, 25),
    _Folder("Proactive Output", "proactive", "proactive", 50, 25),
    *(
        _Folder(task, part, task.replace(" ", "_"), *_SPLIT.get(task, ()))
        for part in ("omni", "contextual")
        for task in TASKS[part]
    ),
)
_BY_SUFFIX = {folder.suffix: folder for folder in _FOLDERS}
_BY_NAME = {folder.name: folder for folder in _FOLDERS}


def unpacked_path(portion: str, archive: str, member: str) -> str:
    """Path of a zip member below the data root, in the benchmark's flat layout."""
    stem = archive.removesuffix(".zip")
    if match := _SAMPLE_MEMBER.fullmatch(member):
        suffix = stem.replace(" ", "_") if portion == "omni" else portion
        return f"videos/{match[1]}_{suffix}.mp4"
    return f"videos/{stem}/{member}"


def _portion(name: str, size: str, *hub_tables: str) -> Portion:
    return Portion(
        questions=f"questions_{name}.json",
        archives=tuple(zips for folder in _FOLDERS if folder.portion == name for zips in folder.archives),
        size=size,
        videos=f"videos/sample_<n>_{'<task>' if name == 'omni' else name}.mp4",
        hub_questions=tuple(f"StreamingBench/{table}.csv" for table in hub_tables),
    )


SOURCE = DataSource(
    name="streamingbench",
    variable="STC_STREAMINGBENCH_ROOT",
    hub_id="mjuicem/StreamingBench",
    portions={
        "real": _portion("real", "roughly 90 GB", "Real_Time_Visual_Understanding"),
        "omni": _portion("omni", "roughly 55 GB", "Omni_Source_Understanding", "Contextual_Understanding"),
        "sqa": _portion("sqa", "about 13 GB", "Sequential_Question_Answering"),
        "proactive": _portion("proactive", "about 9 GB", "Proactive_Output"),
    },
    licence="see its dataset card",
    questions_url="https://raw.githubusercontent.com/THUNLP-MT/StreamingBench/main/src/data/",
    question_folders=("", "data", "src/data", "StreamingBench"),
    unpacked_path=unpacked_path,
)


def video_candidates(video: str) -> list[str]:
    """Paths relative to the data root where a video may lie, best first.

    Includes the folders of zips unpacked by hand, but never `sample_<n>/` in the root itself: every part has
    a sample 1. `video` is not checked here: `video_path` refuses candidates that leave the root.
    """
    name = PurePosixPath(video).name
    candidates = [f"videos/{name}", str(PurePosixPath(video)), name, f"src/data/videos/{name}"]
    match = _VIDEO_NAME.fullmatch(name)
    if match and (folder := _BY_SUFFIX.get(match[2])):
        samples = folder.range_of(int(match[1]))
        prefixes = ("", f"{folder.portion}/", f"data/{folder.portion}/")
        folders = [prefix + folder.name + samples for prefix in prefixes]
        if folder.portion == "omni":
            folders += [prefix + folder.suffix + samples for prefix in prefixes]
        else:
            folders += [folder.portion, f"data/{folder.portion}"]
        candidates += [f"{path}/sample_{match[1]}/video.mp4" for path in folders]
    return list(dict.fromkeys(candidates))


@dataclass(frozen=True)
class Entry:
    """One question as annotated.

    Attributes:
        task: sub-task, named as in the repository JSON.
        video: file name in the repository's flat layout (`sample_389_real.mp4`).
        index: 1-based number within the video: in time order (JSON) or from the question_id (CSV).
        time_stamp: time of the question as written, which the `sqa` history quotes.
        time_s: the same in whole seconds.
        options: empty for `proactive`.
        answer: gold letter, or for `proactive` the text to output.
        gold_s: `proactive`: second at which to answer; else -1.
    """

    part: str
    task: str
    video: str
    index: int
    time_stamp: str
    time_s: int
    question: str
    options: tuple[str, ...]
    answer: str
    gold_s: float

    @property
    def qid(self) -> str:
        """Unique name: part, sample (with the task where samples of several tasks share numbers), index."""
        sample = self.video.removeprefix("sample_").removesuffix(".mp4").removesuffix(f"_{self.part}")
        return f"{self.part}:{sample}:{self.index}"


def load_annotations(path: str | Path) -> list[Entry]:
    """The entries of a `.json` or `.csv` file; `questions_omni.json` has those of `omni` and `contextual`."""
    if Path(path).suffix.lower() == ".csv":
        return parse_csv(read_text(path), str(path))
    return parse_json(read_json(path), str(path))


def parse_json(data: Any, where: str) -> list[Entry]:
    """The entries of a repository file: a list of clips, or (sqa) a list of such lists."""
    items = need_list(data, "entries", where)
    clips = [clip for item in items for clip in (item if isinstance(item, list) else [item])]
    entries: list[Entry] = []
    for number, clip in enumerate(clips):
        place = f"{where}: entry {number}"
        video = need_video(clip, "video_path", place).rsplit("/", 1)[-1]
        match = _VIDEO_NAME.fullmatch(video)
        folder = _BY_SUFFIX.get(match[2]) if match else None
        if folder is None:
            raise DataError(f"{place}: field 'video_path' must end in sample_N_part.mp4, got {short(video)}")
        for index, question in enumerate(need(clip, "questions", list, place)):
            entries.append(_entry(question, folder, video, 0, f"{place} ({video}): question {index}"))
    return _number_by_time(entries)


def parse_csv(text: str, where: str) -> list[Entry]:
    """The entries of a hub CSV, the questions of a video in the order of their numbers."""
    entries: list[Entry] = []
    seen: set[str] = set()
    for place, cells in _csv_lines(text, where):
        name = need(cells, "question_id", str, place)
        match = _QUESTION_ID.fullmatch(name)
        # The prefix of question_id names the folder; omni files vary in it, so their task does.
        labels = (match[1], cells.get("task_type", "")) if match else ()
        folder = next((_BY_NAME[label] for label in map(_task_name, labels) if label in _BY_NAME), None)
        if match is None or folder is None:
            raise DataError(f"{place}: field 'question_id' must be like Name_sample_N_K, got {short(name)}")
        place = f"{place} ({name})"
        if folder.part != "proactive":
            cells["options"] = _literal_list(need(cells, "options", str, place), place)
        # The benchmark's flat layout kept the zip range in the names of this one task.
        samples = folder.range_of(int(match[2])) if folder.name == "Scene Understanding" else ""
        video = f"sample_{match[2]}_{folder.suffix}{samples}.mp4"
        entry = _entry(cells, folder, video, int(match[3]), place)
        if entry.qid in seen:
            raise DataError(f"{place}: this question_id occurs twice")
        seen.add(entry.qid)
        entries.append(entry)
    if not entries:
        raise DataError(f"{where}: holds no questions")
    return sorted(entries, key=lambda entry: entry.index)


def parse_time(text: str, where: str) -> int:
    """Whole seconds (truncated) of a time stamp with any number of fields (`0:07:40`, `00:24`).

    A field may exceed 59: the annotations contain `00:12450`, which is 12450 s and not clamped here. `where`
    begins the error message if a field is not a number.
    """
    fields = text.split(":")
    if not all(_FIELD.fullmatch(field) for field in fields):
        raise DataError(f"{where}: time stamp must be like 00:03:10, got {short(text)}")
    seconds = 0.0
    for field in fields:
        seconds = seconds * 60 + float(field)
    return int(seconds)


def _csv_lines(text: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and cells of every line, without the cells that a short line lacks."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "question_id" not in (reader.fieldnames or ()):
            raise DataError(f"{where}: must have a header with question_id, got {short(reader.fieldnames)}")
        for line in reader:
            cells = {name: cell for name, cell in line.items() if isinstance(name, str) and cell is not None}
            yield f"{where}: line {reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num}: is not CSV ({error})") from error


def _entry(fields: Any, folder: _Folder, video: str, index: int, where: str) -> Entry:
    task = need(fields, "task_type", str, where)
    time_stamp = need(fields, "time_stamp", str, where)
    options: tuple[str, ...] = ()
    gold_s = NO_TIME_S
    if folder.part == "proactive":
        answer = need(fields, "ground_truth_output", str, where)
        gold_s = float(parse_time(need(fields, "ground_truth_time_stamp", str, where), where))
    else:
        options = tuple(need_texts(fields, "options", 4, where))
        answer = need(fields, "answer", str, where).strip()
        if answer not in ("A", "B", "C", "D"):
            raise DataError(f"{where}: field 'answer' must be A, B, C or D, got {short(answer)}")
    # Only the folder of `real` mixes tasks; elsewhere it is the task, whatever the label says.
    task = _task_name(task) if folder.part == "real" else folder.name
    time_s, question = parse_time(time_stamp, where), need(fields, "question", str, where)
    return Entry(folder.part, task, video, index, time_stamp, time_s, question, options, answer, gold_s)


def _task_name(name: str) -> str:
    """A task's name as in the JSON; an unknown one is kept and becomes a task of its own."""
    plain = " ".join(name.replace("_", " ").split())
    return _TASK_NAMES.get(plain.lower(), plain)


def _number_by_time(entries: Sequence[Entry]) -> list[Entry]:
    """The entries in their order, numbered from 1 per video by time, ties in file order."""
    numbers: dict[int, int] = {}
    counts: dict[str, int] = {}
    for position in sorted(range(len(entries)), key=lambda p: entries[p].time_s):
        video = entries[position].video
        numbers[position] = counts[video] = counts.get(video, 0) + 1
    return [replace(entry, index=numbers[position]) for position, entry in enumerate(entries)]


def _literal_list(text: str, where: str) -> list[Any]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise DataError(f"{where}: field 'options' must be a list literal, got {short(text)}")
    return value
