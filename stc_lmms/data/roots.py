"""Locate a benchmark's question files and videos on this machine."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from stc_lmms.data.source import DataSource, Portion
from stc_lmms.errors import DataError
from stc_lmms.resources import tasks_root

_MINI_VARIABLE = "STC_MINI"


def mini_root() -> Path:
    """Folder of the mini data that ships with the package, or the one that `STC_MINI` names."""
    given = os.environ.get(_MINI_VARIABLE, "")
    root = Path(given).expanduser() if given else tasks_root() / "mini_data"
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; unset {_MINI_VARIABLE} or reinstall stc-lmms")
    return root


def data_root(source: DataSource, portion: str | None = None) -> Path:
    """Folder with the question files and videos of a benchmark, from its environment variable.

    Raises:
        DataError: The variable is not set or does not name a folder; the message says how to download the
            portion.
    """
    given = os.environ.get(source.variable, "")
    root = Path(given).expanduser()
    if given and root.is_dir():
        return root
    problem = f"{source.variable}={given} is not a folder" if given else f"{source.variable} is not set"
    raise DataError(f"{problem}: {source.setup_hint(portion or source.default_portion)}")


def question_files(root: Path, portion: Portion, source: DataSource) -> list[Path]:
    """The portion's question file, or all hub files that replace it; empty if they are not in the root."""
    first, *others = [_question_file(root, name, source) for name in portion.question_files]
    return [first] if first else others if all(others) else []


def question_file(root: Path, name: str, source: DataSource) -> Path:
    """A file (a bare name) in one of the question folders, or a DataError that says how to get it."""
    if path := _question_file(root, name, source):
        return path
    looked = ", ".join(f"{folder}/" if folder else "the folder itself" for folder in source.question_folders)
    raise DataError(f"{name} is not in {root} (looked in {looked}){source.questions_hint(name, root)}")


def _question_file(root: Path, name: str, source: DataSource) -> Path | None:
    if PurePosixPath(name).name != name:
        raise DataError(f"{name!r} is not a bare file name")
    paths = [root / folder / name for folder in source.question_folders]
    return next((path for path in paths if path.is_file()), None)


def video_path(root: Path, candidates: Sequence[str]) -> Path | None:
    """First candidate (a path relative to the root) that is a file, or None.

    Symlinks are followed, so that the owner of the root may keep videos on another disk.

    Raises:
        DataError: A candidate is absolute or contains `..`: a question file must not lead out of the root.
    """
    paths = [root / check_relative(candidate) for candidate in candidates]
    return next((path for path in paths if path.is_file()), None)


def check_relative(name: str) -> PurePosixPath:
    """Check that a path from a question file or archive stays below its folder.

    Raises:
        DataError: The path is empty, absolute (POSIX or Windows), contains `..`, a backslash or NUL.
    """
    path = PurePosixPath(name)
    absolute = path.is_absolute() or PureWindowsPath(name).drive
    if absolute or not path.parts or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataError(f"unsafe path {name!r}: only relative paths without '..' are allowed")
    return path


def safe_join(root: Path, name: str) -> Path:
    """Join an archive member's name to the folder it is extracted into.

    Raises:
        DataError: The path is not relative (see `check_relative`) or leads out of `root` through a symlink.
    """
    path = root / check_relative(name)
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: symlink loop (Python < 3.13)
        raise DataError(f"unsafe path {name!r}: {error}") from error
    if not inside:
        raise DataError(
            f"unsafe path {name!r}: a symlink leads out of {root}; move the files there, or use the folder "
            f"that contains them as the root"
        )
    return path
