"""StreamingBench's files: both annotation formats (repository JSON, hub CSV), and where its videos lie."""

import ast
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from stc_lmms.benchmarks.base import NO_TIME_S
from stc_lmms.benchmarks.fields import need, need_texts, need_video, read_json, read_text, short
from stc_lmms.data.source import DataSource, Portion, zip_range, zips
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


class _Source(NamedTuple):
    """Where the videos of a task come from: zip folder name, samples per zip (0: one zip), suffix, part."""

    folder: str
    per_zip: int
    suffix: str
    part: str


_SOURCES = (
    _Source("Real-Time Visual Understanding", 50, "real", "real"),
    _Source("Sequential Question Answering", 25, "sqa", "sqa"),
    _Source("Proactive Output", 25, "proactive", "proactive"),
    *(
        _Source(task, 25 if task == "Scene Understanding" else 0, task.replace(" ", "_"), part)
        for part in ("omni", "contextual")
        for task in TASKS[part]
    ),
)
_BY_SUFFIX = {source.suffix: source for source in _SOURCES}
_BY_FOLDER = {source.folder: source for source in _SOURCES}


def unpacked_path(portion: str, archive: str, member: str) -> str:
    """Where a zip member goes below the data root: the flat layout of the benchmark's own preprocessing.

    All zips name their videos `sample_<n>/video.mp4`; the question files name them
    `videos/sample_<n>_<suffix>.mp4`.
    """
    stem = archive.removesuffix(".zip")
    if match := _SAMPLE_MEMBER.fullmatch(member):
        suffix = stem.replace(" ", "_") if portion == "omni" else portion
        return f"videos/{match[1]}_{suffix}.mp4"
    return f"videos/{stem}/{member}"


SOURCE = DataSource(
    name="streamingbench",
    variable="STC_STREAMINGBENCH_ROOT",
    hub_id="mjuicem/StreamingBench",
    portions={
        "real": Portion(
            "questions_real.json",
            zip_range("Real-Time Visual Understanding", 50, 500),
            "roughly 90 GB",
            "videos/sample_<n>_real.mp4",
            ("StreamingBench/Real_Time_Visual_Understanding.csv",),
        ),
        "omni": Portion(
            "questions_omni.json",
            zip_range("Scene Understanding", 25, 50)
            + zips(
                "Emotion Recognition",
                "Multimodal Alignment",
                "Source Discrimination",
                "Misleading Context Understanding",
                "Anomaly Context Understanding",
            ),
            "roughly 55 GB",
            "videos/sample_<n>_<task>.mp4",
            ("StreamingBench/Omni_Source_Understanding.csv", "StreamingBench/Contextual_Understanding.csv"),
        ),
        "sqa": Portion(
            "questions_sqa.json",
            zip_range("Sequential Question Answering", 25, 50),
            "about 13 GB",
            "videos/sample_<n>_sqa.mp4",
            ("StreamingBench/Sequential_Question_Answering.csv",),
        ),
        "proactive": Portion(
            "questions_proactive.json",
            zip_range("Proactive Output", 25, 50),
            "about 9 GB",
            "videos/sample_<n>_proactive.mp4",
            ("StreamingBench/Proactive_Output.csv",),
        ),
    },
    licence="see its dataset card",
    questions_url="https://raw.githubusercontent.com/THUNLP-MT/StreamingBench/main/src/data/",
    question_folders=("", "data", "src/data", "StreamingBench"),
    unpacked_path=unpacked_path,
)


def video_candidates(video: str) -> list[str]:
    """Paths relative to the data root where a video may lie, best first.

    Args:
        video: as annotated, e.g. `./videos/sample_3_real.mp4`. It is not checked here: `video_path` refuses
            candidates that leave the root.
    """
    name = PurePosixPath(video).name
    candidates = [f"videos/{name}", str(PurePosixPath(video)), name, f"src/data/videos/{name}"]
    match = _VIDEO_NAME.fullmatch(name)
    if match and (source := _BY_SUFFIX.get(match[2])):
        folders = _unzipped_folders(source, int(match[1]))
        candidates += [f"{folder}/sample_{match[1]}/video.mp4" for folder in folders]
    return list(dict.fromkeys(candidates))


def _unzipped_folders(source: _Source, number: int) -> list[str]:
    """Folders that hold `sample_<n>/` if the zips were unpacked by hand.

    Never the data root itself: every part has a sample_1.
    """
    omni = source.part in ("omni", "contextual")
    part, samples = "omni" if omni else source.part, _range(number, source.per_zip)
    names = [source.folder + samples, *([source.suffix + samples] if omni else [])]
    folders = [prefix + name for name in names for prefix in ("", f"{part}/", f"data/{part}/")]
    return folders if omni else [*folders, part, f"data/{part}"]


@dataclass(frozen=True)
class Entry:
    """One question as annotated.

    Attributes:
        part: which part it belongs to.
        task: sub-task, named as in the repository JSON.
        video: file name in the repository's flat layout (`sample_389_real.mp4`).
        index: 1-based number within the video: in time order (JSON) or from the question_id (CSV).
        time_stamp: time of the question as written; it is quoted in the `sqa` history.
        time_s: the same in whole seconds.
        question: question text.
        options: options as written; empty for `proactive`.
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
    """Return the entries of one annotation file, by its ending `.json` or `.csv`.

    `questions_omni.json` holds both `omni` and `contextual` entries.

    Raises:
        DataError: unreadable or malformed; names the entry or line and the field.
    """
    if Path(path).suffix.lower() == ".csv":
        return parse_csv(read_text(path), str(path))
    return parse_json(read_json(path), str(path))


def parse_json(data: Any, where: str) -> list[Entry]:
    """Return the entries of a repository file: a list of clips, or (sqa) a list of such lists.

    Raises:
        DataError: the first malformed clip.
    """
    if not isinstance(data, list) or not data:
        raise DataError(f"{where}: must be a non-empty list of entries, got {short(data)}")
    clips = [clip for item in data for clip in (item if isinstance(item, list) else [item])]
    entries: list[Entry] = []
    for number, clip in enumerate(clips):
        place = f"{where}: entry {number}"
        if not isinstance(clip, dict):
            raise DataError(f"{place}: must be an object, got {short(clip)}")
        video = need_video(clip, "video_path", place).rsplit("/", 1)[-1]
        match = _VIDEO_NAME.fullmatch(video)
        source = _BY_SUFFIX.get(match[2]) if match else None
        if source is None:
            raise DataError(f"{place}: field 'video_path' must end in sample_N_part.mp4, got {short(video)}")
        for question in need(clip, "questions", list, place):
            if not isinstance(question, dict):
                raise DataError(f"{place} ({video}): a question must be an object, got {short(question)}")
            entries.append(_entry(question, source, video, 0, f"{place} ({video})"))
    return _number_by_time(entries)


def parse_csv(text: str, where: str) -> list[Entry]:
    """Return the entries of a Hugging Face CSV, the questions of a video in the order of their numbers.

    Raises:
        DataError: the first malformed line.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    for place, cells in _csv_lines(text, where):
        name = need(cells, "question_id", str, place)
        match = _QUESTION_ID.fullmatch(name)
        source = _csv_source(match[1], cells.get("task_type", "")) if match else None
        if match is None or source is None:
            raise DataError(f"{place}: field 'question_id' must be like Name_sample_N_K, got {short(name)}")
        place = f"{place} ({name})"
        if source.part != "proactive":
            cells["options"] = _literal_list(need(cells, "options", str, place), place)
        entry = _entry(cells, source, _video_name(source, int(match[2])), int(match[3]), place)
        if entry.qid in seen:
            raise DataError(f"{place}: this question_id occurs twice")
        seen.add(entry.qid)
        entries.append(entry)
    if not entries:
        raise DataError(f"{where}: holds no questions")
    return sorted(entries, key=lambda entry: entry.index)


def parse_time(text: str) -> int:
    """Return the whole seconds of a time stamp with any number of fields (`0:07:40`, `00:24`).

    A field may exceed 59: the annotations hold `00:12450`, which is 12450 s. Whoever plays the video
    clamps to its end. A fraction of a second is cut off.

    Raises:
        ValueError: a field is not a number.
    """
    fields = text.split(":")
    if not all(_FIELD.fullmatch(field) for field in fields):
        raise ValueError(f"time stamp must be like 00:03:10, got {short(text)}")
    seconds = 0.0
    for field in fields:
        seconds = seconds * 60 + float(field)
    return int(seconds)


def _csv_lines(text: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and cells of every line; cells that a short line lacks are left out."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "question_id" not in (reader.fieldnames or ()):
            raise DataError(f"{where}: must have a header with question_id, got {short(reader.fieldnames)}")
        for line in reader:
            cells = {name: cell for name, cell in line.items() if isinstance(name, str) and cell is not None}
            yield f"{where}: line {reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num}: is not CSV ({error})") from error


def _entry(fields: Mapping[str, Any], source: _Source, video: str, index: int, where: str) -> Entry:
    task = need(fields, "task_type", str, where)
    time_stamp = need(fields, "time_stamp", str, where)
    options: tuple[str, ...] = ()
    gold_s = NO_TIME_S
    if source.part == "proactive":
        answer = need(fields, "ground_truth_output", str, where)
        gold_s = float(_seconds(need(fields, "ground_truth_time_stamp", str, where), where))
    else:
        options = tuple(need_texts(fields, "options", 4, where))
        answer = need(fields, "answer", str, where).strip()
        if answer not in ("A", "B", "C", "D"):
            raise DataError(f"{where}: field 'answer' must be A, B, C or D, got {short(answer)}")
    return Entry(
        part=source.part,
        # Only `real` mixes tasks in one folder; elsewhere the folder is the task, whatever the label says.
        task=_task_name(task) if source.part == "real" else source.folder,
        video=video,
        index=index,
        time_stamp=time_stamp,
        time_s=_seconds(time_stamp, where),
        question=need(fields, "question", str, where),
        options=options,
        answer=answer,
        gold_s=gold_s,
    )


def _task_name(name: str) -> str:
    """Return the JSON's name of a task; a name nobody knows stays and shows up as a task of its own."""
    plain = " ".join(name.replace("_", " ").split())
    return _TASK_NAMES.get(plain.lower(), plain)


def _csv_source(prefix: str, task_type: str) -> _Source | None:
    """Return the source by the prefix of the question_id, else by the task (omni files differ in prefix)."""
    return _BY_FOLDER.get(_task_name(prefix)) or _BY_FOLDER.get(_task_name(task_type))


def _number_by_time(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries in their order, numbered from 1 per video by time, ties in file order."""
    numbers: dict[int, int] = {}
    counts: dict[str, int] = {}
    for position in sorted(range(len(entries)), key=lambda p: entries[p].time_s):
        video = entries[position].video
        numbers[position] = counts[video] = counts.get(video, 0) + 1
    return [replace(entry, index=numbers[position]) for position, entry in enumerate(entries)]


def _seconds(text: str, where: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _literal_list(text: str, where: str) -> list[Any]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{where}: field 'options' must be a list literal, got {short(text)}") from error
    if not isinstance(value, list):
        raise DataError(f"{where}: field 'options' must be a list literal, got {short(text)}")
    return value


def _video_name(source: _Source, number: int) -> str:
    # The repository's own flattening kept the zip range in the names of this one task.
    suffix = _range(number, source.per_zip) if source.folder == "Scene Understanding" else ""
    return f"sample_{number}_{source.suffix}{suffix}.mp4"


def _range(number: int, size: int) -> str:
    """Return the sample range of the zip that holds a sample (`_51-100`), or "" for a single zip."""
    if not size:
        return ""
    first = (number - 1) // size * size + 1
    return f"_{first}-{first + size - 1}"
