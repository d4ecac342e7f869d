"""Where a benchmark's question files and videos lie on this machine."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from stc_lmms.data.catalog import MINI, find_benchmark, part_of_questions
from stc_lmms.errors import DataError
from stc_lmms.resources import tasks_root

_MINI_VARIABLE = "STC_MINI"
# "" and data/ for OVO-Bench, src/data/ and StreamingBench/ for the two layouts of StreamingBench.
_QUESTION_FOLDERS = ("", "data", "src/data", "StreamingBench")


def benchmark_root(benchmark: str, part: str | None = None) -> Path:
    """Folder with the question files and videos of a benchmark.

    Args:
        benchmark: "ovobench" (`STC_OVOBENCH_ROOT`), "streamingbench" (`STC_STREAMINGBENCH_ROOT`) or "mini":
            the data that ships with the package, unless `STC_MINI` names another folder.
        part: What is wanted of it, for the message: a key of `Benchmark.parts`; None: its first.

    Raises:
        DataError: The variable is not set or names no folder; the message says what to download.
    """
    if benchmark == MINI:
        given = os.environ.get(_MINI_VARIABLE, "")
        root = Path(given).expanduser() if given else tasks_root() / "mini_data"
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; unset {_MINI_VARIABLE} or reinstall stc-lmms")
        return root

    source = find_benchmark(benchmark)
    given = os.environ.get(source.variable, "")
    root = Path(given).expanduser()
    if given and root.is_dir():
        return root
    problem = f"{source.variable}={given} is not a folder" if given else f"{source.variable} is not set"
    part = part or next(iter(source.parts))
    raise DataError(
        f"{problem}: for part {part!r} of {source.name} run {source.fetch_command(part)} and set "
        f"{source.variable}=DIR; or {source.by_hand(part)}"
    )


def annotation_file(root: Path, name: str) -> Path:
    """Find a question file in a root.

    Args:
        root: Folder of `benchmark_root`.
        name: Bare file name, e.g. `ovo_bench_new.json` or `Real_Time_Visual_Understanding.csv`. It is looked
            for in the root, `data/`, `src/data/` and `StreamingBench/`.

    Raises:
        DataError: The file is in none of these places.
    """
    if PurePosixPath(name).name != name:
        raise DataError(f"{name!r} is not a bare file name")
    for folder in _QUESTION_FOLDERS:
        if (path := root / folder / name).is_file():
            return path
    looked = ", ".join(f"{folder}/" if folder else "the folder itself" for folder in _QUESTION_FOLDERS)
    raise DataError(f"{name} is not in {root} (looked in {looked}){_origin(root, name)}")


def _origin(root: Path, name: str) -> str:
    found = part_of_questions(name)
    if found is None:
        return ""
    source, part = found
    place = f"{source.questions_url}{name}"
    if name != source.parts[part].questions:
        place = f"StreamingBench/{name} from the hub dataset {source.hub_id}"
    command = source.fetch_command(part, root)
    return f"; for part {part!r} of {source.name} run {command}, or download {place} and put it there"


def video_path(root: Path, candidates: Sequence[str]) -> Path | None:
    """First candidate that is a file.

    Symlinks are followed: whoever owns the root may keep its videos on another disk. What must not decide
    where a path leads is the question file.

    Args:
        root: Folder of `benchmark_root`.
        candidates: Paths relative to the root, see `video_candidates`.

    Returns:
        The path, or None if no candidate exists.

    Raises:
        DataError: A candidate is absolute or contains `..`.
    """
    paths = [root / check_relative(candidate) for candidate in candidates]
    return next((path for path in paths if path.is_file()), None)


def check_relative(name: str) -> PurePosixPath:
    """Check that a path from a question file or archive names something below its folder.

    Raises:
        DataError: The path is empty, absolute (POSIX or Windows), contains `..`, a backslash or NUL.
    """
    path = PurePosixPath(name)
    absolute = path.is_absolute() or PureWindowsPath(name).drive
    if absolute or not path.parts or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataError(f"unsafe path {name!r}: only relative paths without '..' are allowed")
    return path


def safe_join(root: Path, name: str) -> Path:
    """Join the name of an archive's member to the folder it is unpacked into.

    Raises:
        DataError: The path is not relative (see `check_relative`) or leads out of `root` through a symlink.
    """
    path = root / check_relative(name)
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks (Python < 3.13)
        raise DataError(f"unsafe path {name!r}: {error}") from error
    if not inside:
        raise DataError(
            f"unsafe path {name!r}: a symlink leads out of {root}; move the files there or make the folder "
            f"that really holds them the root"
        )
    return path
