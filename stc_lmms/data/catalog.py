"""What each benchmark is made of: hub files, question files, and where its videos may lie in a root."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from stc_lmms.errors import DataError


@dataclass(frozen=True)
class Part:
    """One separately downloadable portion of a benchmark.

    Attributes:
        archives: Groups of hub files. A group is extracted as one archive: the parts of a split tar, in
            order, or a single zip.
        questions: Question file of the benchmark's own code repository.
        size: Of the archives, for people; a rough one is scaled from those archives whose size is known.
        videos: Where the videos lie in a root, for people.
        hub_questions: Hub files that can stand in for `questions`; empty if the hub has none.
    """

    archives: tuple[tuple[str, ...], ...]
    questions: str
    size: str
    videos: str
    hub_questions: tuple[str, ...] = ()

    @property
    def archive_names(self) -> str:
        """The archives in a few words, e.g. `'Scene Understanding_*.zip', 'Emotion Recognition.zip'`."""
        names = [
            f"{group[0]!r}" if len(group) == 1 else f"'{group[0][:-1]}[{group[0][-1]}-{group[-1][-1]}]'"
            for group in self.archives
        ]
        return ", ".join(dict.fromkeys(_RANGE.sub("_*.zip", name) for name in names))


@dataclass(frozen=True)
class Benchmark:
    """Where one benchmark comes from.

    Attributes:
        name: Key used by the functions of `stc_lmms.data` and by the command line.
        variable: Environment variable that names the root folder.
        hub_id: Dataset on the Hugging Face hub.
        questions_url: Folder of the code repository that holds the question files.
        parts: Part name to content; the first one is the default.
        licence: What the data may be used for, for people.
    """

    name: str
    variable: str
    hub_id: str
    questions_url: str
    parts: Mapping[str, Part]
    licence: str

    def fetch_command(self, part: str, to: object = "DIR") -> str:
        """The command that gets a part, and how much it downloads."""
        chosen = "" if part == next(iter(self.parts)) else f" --parts {part}"
        size = self.parts[part].size
        return f"`stc-lmms data fetch {self.name}{chosen} --to {shlex.quote(str(to))}` ({size})"

    def by_hand(self, part: str, to: object = "DIR") -> str:
        """What to download for a part without that command, and where to put it."""
        content = self.parts[part]
        return (
            f"download {content.archive_names} from the hub dataset {self.hub_id} and {self.questions_url}"
            f"{content.questions} (licence: {self.licence}), so that {to}/{content.questions} and "
            f"{to}/{content.videos} exist"
        )


def _split_tar(name: str, last: str) -> tuple[tuple[str, ...], ...]:
    return (tuple(f"{name}.tar.parta{chr(code)}" for code in range(ord("a"), ord(last) + 1)),)


def _zips(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{name}.zip",) for name in names)


def _zip_range(name: str, step: int, last: int) -> tuple[tuple[str, ...], ...]:
    return _zips(*(f"{name}_{first}-{first + step - 1}" for first in range(1, last, step)))


OVOBENCH = Benchmark(
    name="ovobench",
    variable="STC_OVOBENCH_ROOT",
    hub_id="JoeLeelyf/OVO-Bench",
    questions_url="https://raw.githubusercontent.com/JoeLeelyf/OVO-Bench/main/data/",
    parts={
        "src": Part(_split_tar("src_videos", "e"), "ovo_bench_new.json", "about 44 GB", "src_videos/<video>"),
        # Only lmms-eval's built-in `ovobench` task reads these.
        "chunked": Part(
            _split_tar("chunked_videos", "o"), "ovo_bench_new.json", "about 144 GB", "chunked_videos/<id>.mp4"
        ),
    },
    licence="CC BY-NC-SA 4.0",
)

STREAMINGBENCH = Benchmark(
    name="streamingbench",
    variable="STC_STREAMINGBENCH_ROOT",
    hub_id="mjuicem/StreamingBench",
    questions_url="https://raw.githubusercontent.com/THUNLP-MT/StreamingBench/main/src/data/",
    parts={
        "real": Part(
            _zip_range("Real-Time Visual Understanding", 50, 500),
            "questions_real.json",
            "roughly 90 GB",
            "videos/sample_<n>_real.mp4",
            ("StreamingBench/Real_Time_Visual_Understanding.csv",),
        ),
        "omni": Part(
            _zip_range("Scene Understanding", 25, 50)
            + _zips(
                "Emotion Recognition",
                "Multimodal Alignment",
                "Source Discrimination",
                "Misleading Context Understanding",
                "Anomaly Context Understanding",
            ),
            "questions_omni.json",
            "roughly 55 GB",
            "videos/sample_<n>_<task>.mp4",
            ("StreamingBench/Omni_Source_Understanding.csv", "StreamingBench/Contextual_Understanding.csv"),
        ),
        "sqa": Part(
            _zip_range("Sequential Question Answering", 25, 50),
            "questions_sqa.json",
            "about 13 GB",
            "videos/sample_<n>_sqa.mp4",
            ("StreamingBench/Sequential_Question_Answering.csv",),
        ),
        "proactive": Part(
            _zip_range("Proactive Output", 25, 50),
            "questions_proactive.json",
            "about 9 GB",
            "videos/sample_<n>_proactive.mp4",
            ("StreamingBench/Proactive_Output.csv", "StreamingBench/Proactive_Output_50.csv"),
        ),
    },
    licence="see its dataset card",
)

BENCHMARKS: Mapping[str, Benchmark] = {entry.name: entry for entry in (OVOBENCH, STREAMINGBENCH)}

# The videos and questions that ship with the package; not downloadable, hence not in BENCHMARKS.
MINI = "mini"

_RANGE = re.compile(r"_\d+-\d+\.zip")
_SAMPLE_FILE = re.compile(r"(sample_\d+)_(.+)\.mp4")
_SAMPLE_MEMBER = re.compile(r"(?:.*/)?(sample_\d+)(?:/video)?\.mp4")


def find_benchmark(name: str) -> Benchmark:
    """Look a downloadable benchmark up.

    Raises:
        DataError: The name is unknown; the message lists the known ones.
    """
    if name not in BENCHMARKS:
        raise DataError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def part_of_questions(name: str) -> tuple[Benchmark, str] | None:
    """The benchmark and part that a question file belongs to, or None.

    Args:
        name: Bare file name.
    """
    for source in BENCHMARKS.values():
        for part, content in source.parts.items():
            if name in [PurePosixPath(file).name for file in (content.questions, *content.hub_questions)]:
                return source, part
    return None


def flat_video_name(part: str, archive: str, member: str) -> str:
    """Where a member of a StreamingBench zip goes below the root.

    The zips all call their videos `sample_<n>/video.mp4`; the question files call them
    `videos/sample_<n>_<suffix>.mp4`, the layout the benchmark's own preprocessing makes.

    Args:
        part: Key of `STREAMINGBENCH.parts`.
        archive: File name of the zip.
        member: Name inside the zip.
    """
    stem = archive.removesuffix(".zip")
    if match := _SAMPLE_MEMBER.fullmatch(member):
        suffix = stem.replace(" ", "_") if part == "omni" else part
        return f"videos/{match[1]}_{suffix}.mp4"
    return f"videos/{stem}/{member}"


def video_candidates(benchmark: str, video: str) -> list[str]:
    """Paths relative to the root where a video of the question file may lie, best first.

    Args:
        benchmark: "ovobench", "streamingbench" or "mini".
        video: Path as written in the question file, e.g. `COIN/x.mp4` or `./videos/sample_3_real.mp4`.
            It is not checked here: `video_path` refuses candidates that leave the root.
    """
    if benchmark == OVOBENCH.name:
        return [f"src_videos/{video}", video, f"data/src_videos/{video}"]
    if benchmark == MINI:
        return [video, f"videos/{video}"]
    find_benchmark(benchmark)
    file_name = PurePosixPath(video).name
    candidates = [f"videos/{file_name}", str(PurePosixPath(video)), file_name, f"src/data/videos/{file_name}"]
    if match := _SAMPLE_FILE.fullmatch(file_name):
        candidates += [f"{folder}/{match[1]}/video.mp4" for folder in _unzipped_folders(match[1], match[2])]
    return list(dict.fromkeys(candidates))


def _unzipped_folders(sample: str, suffix: str) -> list[str]:
    """Folders that hold `sample_<n>/` when the hub's zips were unpacked by hand.

    A bare `sample_<n>/` in the root is not accepted: every part has a sample_1.
    """
    part, number = suffix, int(sample.removeprefix("sample_"))
    if part in ("real", "sqa", "proactive"):
        stems = [group[0].removesuffix(".zip") for group in STREAMINGBENCH.parts[part].archives]
        archive = next((stem for stem in stems if _in_range(number, stem)), stems[0])
        names = [archive]
    else:
        part = "omni"
        stem, _, numbers = suffix.rpartition("_") if suffix[-1:].isdigit() else (suffix, "", "")
        names = [stem.replace("_", " ") + (f"_{numbers}" if numbers else ""), suffix]
    folders = [prefix + name for name in names for prefix in ("", f"{part}/", f"data/{part}/")]
    return folders if part == "omni" else [*folders, part, f"data/{part}"]


def _in_range(number: int, stem: str) -> bool:
    first, last = map(int, stem.rpartition("_")[2].split("-"))
    return first <= number <= last
