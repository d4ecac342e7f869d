"""Rows of a benchmark part, ready to evaluate: questions from the annotations, videos found on disk."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from stc_lmms.benchmarks import offline, ovobench, streamingbench, streamingbench_data
from stc_lmms.benchmarks.base import NO_TIME_S, Row
from stc_lmms.benchmarks.fields import read_json
from stc_lmms.data.catalog import BENCHMARKS, MINI, video_candidates
from stc_lmms.data.offline import SOURCES, offline_candidates, offline_root, offline_rows
from stc_lmms.data.questions import load_ovobench_rows
from stc_lmms.data.roots import annotation_file, benchmark_root, video_path
from stc_lmms.errors import DataError
from stc_lmms.suggest import unknown

PARTS = {
    "ovobench": tuple(ovobench.MODES),
    "streamingbench": tuple(streamingbench.TASKS),
    **{name: (chosen.part,) for name, chosen in offline.SETS.items()},
}
SCORERS: dict[str, Any] = {"ovobench": ovobench, "streamingbench": streamingbench, **offline.SETS}
# Part that is evaluated to the part that is downloaded, where they differ.
_DOWNLOAD = {"contextual": "omni"} | dict.fromkeys(ovobench.MODES, "src")


def load_rows(benchmark: str, part: str, size: str = "") -> list[dict[str, Any]]:
    """One row per source video.

    Args:
        benchmark: a key of `PARTS`.
        part: a key of `PARTS[benchmark]`.
        size: "" is the whole benchmark, `mini` the small data that ships with the package, `tiny` the
            videos of it that its `tiny.json` lists (offline sets: only "").

    Returns:
        `Row`s with three more keys: `benchmark`, `size`, and `path`, the absolute path of the video. A
        video that is not there keeps the path where it was expected: it fails when it is played, and is
        counted, instead of being left out.

    Raises:
        DataError: no data root, no annotations, or malformed ones; or not one video of the part is there.
    """
    root = _root(benchmark, part, size)
    rows = _questions(root, benchmark, part, size)
    if not rows:
        raise DataError(f"{benchmark} in {root} has no questions of part {part!r}")
    paths = [_locate(root, benchmark, row) for row in rows]
    if not (size or any(path.is_file() for path in paths)):
        raise DataError(_no_videos(root, benchmark, part, len(paths)))
    about = {"benchmark": benchmark, "size": size}
    return [dict(row) | about | {"path": str(path)} for row, path in zip(rows, paths, strict=True)]


def load_chunks(part: str) -> list[dict[str, Any]]:
    """One row per question of OVO-Bench, about its published chunk file, which ends where it is asked.

    Args:
        part: a key of `ovobench.MODES`.

    Returns:
        As `load_rows`, with `size` `chunks`.

    Raises:
        DataError: as `load_rows`.
    """
    root = benchmark_root("ovobench", "chunked")
    about = {"benchmark": "ovobench", "size": "chunks"}
    rows = [
        dict(row) | about | {"questions": [question | {"end_s": NO_TIME_S}], "path": str(path)}
        for row in _questions(root, "ovobench", part, "")
        for question in row["questions"]
        for path in [root / "chunked_videos" / ovobench.chunk_name(*map(int, question["qid"].split(":")))]
    ]
    if not any(Path(row["path"]).is_file() for row in rows):
        command = BENCHMARKS["ovobench"].fetch_command("chunked", root)
        raise DataError(f"none of the {len(rows)} chunk files of part {part!r} is in {root}: run {command}")
    return rows


def _no_videos(root: Path, benchmark: str, part: str, count: int) -> str:
    problem = f"none of the {count} videos of part {part!r} of {benchmark} is in {root}"
    if benchmark in SOURCES:
        return f"{problem}: {SOURCES[benchmark].by_hand(root)}"
    source, download = BENCHMARKS[benchmark], _DOWNLOAD.get(part, part)
    return (
        f"{problem}: run {source.fetch_command(download, root)}; archives that you put there yourself "
        f"({source.parts[download].archive_names}) are not downloaded again"
    )


def _root(benchmark: str, part: str, size: str) -> Path:
    if benchmark in SOURCES:
        return offline_root(benchmark)
    return benchmark_root(MINI) if size else benchmark_root(benchmark, _DOWNLOAD.get(part, part))


def _questions(root: Path, benchmark: str, part: str, size: str) -> list[Row]:
    if size == "tiny":
        listed = {PurePath(name).name for name in read_json(annotation_file(root, "tiny.json"))}
        rows = _questions(root, benchmark, part, "mini")
        return [row for row in rows if PurePath(row["video"]).name in listed]
    if benchmark in SOURCES:
        return offline_rows(root, benchmark)
    if benchmark == "ovobench":
        name = "ovo_bench_mini.json" if size else "ovo_bench_new.json"
        return ovobench.build_rows(load_ovobench_rows(root, name), part)
    source = BENCHMARKS[benchmark].parts[_DOWNLOAD.get(part, part)]
    try:
        files = [annotation_file(root, source.questions)]
    except DataError as absent:
        names = [Path(name).name for name in source.hub_questions if "_50" not in name]
        try:
            files = [annotation_file(root, name) for name in names]
        except DataError:
            raise absent from None
    entries = [entry for file in files for entry in streamingbench_data.load_annotations(file)]
    return streamingbench.build_rows(entries, part)


def _locate(root: Path, benchmark: str, row: Row) -> Path:
    candidates = candidates_of(benchmark, row)
    return video_path(root, candidates) or root / candidates[0]


def candidates_of(benchmark: str, row: Row) -> list[str]:
    """Relative paths where the row's video may lie, best first; the mini data has all in `videos/`."""
    if benchmark in SOURCES:
        return offline_candidates(benchmark, row["video"])
    return [*video_candidates(benchmark, row["video"]), f"videos/{row['video']}"]


def needed_videos(
    benchmark: str, parts: Sequence[str] | None = None, size: str = ""
) -> tuple[Path, list[tuple[list[str], float]]]:
    """The data root, and for every row where its video may lie and up to when (seconds) it is needed.

    That is negative where a question is asked at the end of the video, wherever that is.

    Raises:
        DataError: as `load_rows`; or an unknown part. Parts whose annotations are absent are left out unless
            they were asked for.
    """
    for part in parts or ():
        if part not in PARTS[benchmark]:
            raise DataError(unknown("part", part, PARTS[benchmark]))
    root = _root(benchmark, (parts or PARTS[benchmark])[0], size)
    needed: list[tuple[list[str], float]] = []
    for part in parts or PARTS[benchmark]:
        try:
            rows = _questions(root, benchmark, part, size)
        except DataError:
            if parts or part == PARTS[benchmark][0]:
                raise
            continue
        needed += [(candidates_of(benchmark, row), max(q["end_s"] for q in row["questions"])) for row in rows]
    return root, needed
