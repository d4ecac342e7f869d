"""Extract split tars and zips, which are not trusted.

Only regular files and folders with relative names without `..` are accepted, and nothing is written through a
symlink. All members are checked before the first one is written. A member is written to a temporary file and
renamed when complete, so that an interrupted extraction can be resumed.
"""

import io
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from stc_lmms.data.parts import JoinedParts
from stc_lmms.data.roots import check_relative, safe_join
from stc_lmms.errors import DataError

# Videos hardly compress; such a ratio, of a member or of the sum, is a decompression bomb.
MAX_ZIP_RATIO = 100
_SMALL_BYTES = 1 << 20  # smaller files may have any ratio
_COPY_BYTES = 1 << 20
_NOT_REGULAR = "not a regular file or folder (link or device)"
# RecursionError: a tar with a chain of extended headers.
_READ_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RecursionError, ValueError)


@dataclass(frozen=True)
class Extraction:
    """Size in bytes of every member by path relative to the target folder, and how many were written now."""

    sizes: dict[str, int]
    written: int


@dataclass(frozen=True)
class _Member:
    name: str
    target: str  # relative to the target folder
    size: int
    end: int  # end of its data, as an offset in the archive in bytes
    open: Callable[[], IO[bytes]]


def extract_tar(parts: Sequence[Path], to: Path, *, delete_parts: bool = False) -> Extraction:
    """Extract an uncompressed tar that is split into parts, in order.

    With `delete_parts`, each part is deleted as soon as every member in it is on disk.

    Raises:
        DataError: A part is missing, the archive is truncated, malformed or has an unsafe member (then
            nothing was written), or the disk is full.
    """
    for part in parts:
        if not part.is_file():
            raise DataError(f"{part} is missing; all {len(parts)} parts are needed to extract the archive")
    label = parts[0].name
    with (
        _reported(label, to),
        JoinedParts(parts) as joined,
        io.BufferedReader(joined, 1 << 16) as stream,
        # "r:" rather than "r|": a resumed run seeks past members that exist.
        tarfile.open(fileobj=stream, mode="r:") as tar,
    ):
        members = [_tar_member(tar, info, to) for info in _plain_files(tar) if _wanted(info.name)]
        _require_end_of_archive(stream, tar.offset)
        if not delete_parts:
            return _extract(members, to, label)
        # A part is deleted when its last member is complete, so one part and one member are on disk twice.
        twice = max(part.stat().st_size for part in parts) + max((m.size for m in members), default=0)
        result = _extract(members, to, label, done=joined.delete_before, peak_bytes=twice)
        joined.delete_before(joined.ends[-1])
    return result


def extract_zip(
    archive: Path, to: Path, *, rename: Callable[[str], str] = str, delete_archive: bool = False
) -> Extraction:
    """Extract a zip; `rename` maps a member's name to its path relative to `to`.

    Raises:
        DataError: The archive is missing, malformed, encrypted, a decompression bomb or has an unsafe member
            (then nothing was written), or the disk is full.
    """
    if not archive.is_file():
        raise DataError(f"{archive} is missing")
    with _reported(archive.name, to):
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
            for info in opened.infolist():
                _check_zip_member(info)
            # Also the sum: members of a bomb can share compressed bytes.
            _check_ratio(archive.name, sum(info.file_size for info in infos), archive.stat().st_size)
            members = [
                _Member(info.filename, rename(info.filename), info.file_size, 0, partial(opened.open, info))
                for info in infos
                if _wanted(info.filename)
            ]
            result = _extract(members, to, archive.name)
        if delete_archive:
            archive.unlink()
    return result


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise a DataError if the disk of a folder has less free space than needed."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise DataError(
            f"{purpose} needs {needed_bytes / 1e9:.1f} GB but {folder} has only {free_bytes / 1e9:.1f} GB "
            "free; free some space, choose a folder on another disk (--to), or delete archives as they are "
            "extracted (--delete-parts)"
        )


def is_complete(path: Path, size: int) -> bool:
    """Whether a file of that size in bytes exists."""
    return path.is_file() and path.stat().st_size == size


@contextmanager
def _reported(label: str, to: Path) -> Iterator[None]:
    """Turn errors in reading an archive or writing its members into a DataError."""
    try:
        yield
    except _READ_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{label} is incomplete or damaged ({reason}); download it again") from error
    except OSError as error:
        raise DataError(f"cannot extract {label} to {to}: {error}") from error


def _plain_files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of a tar; raises DataError at anything but regular files and folders."""
    for info in tar:
        if PurePosixPath(info.name).parts or not info.isdir():  # "./" itself is accepted
            check_relative(info.name)
        if info.isdir():
            continue
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse() or info.size < 0:
            raise _refused(info.name, _NOT_REGULAR)
        yield info


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo, to: Path) -> _Member:
    try:
        tarfile.data_filter(info, str(to))
    except tarfile.FilterError as error:
        raise _refused(info.name, str(error)) from error
    blocks = -(-info.size // tarfile.BLOCKSIZE)
    end = info.offset_data + blocks * tarfile.BLOCKSIZE
    target = str(PurePosixPath(info.name))
    return _Member(info.name, target, info.size, end, partial(tar.extractfile, info))


def _require_end_of_archive(stream: BinaryIO, offset: int) -> None:
    """Check that a tar is complete: tarfile silently stops at truncated or garbled data."""
    stream.seek(offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end of archive at byte {offset} of the joined parts")


def _check_zip_member(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename  # zipfile truncates `filename` at a NUL
    check_relative(name)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(name, _NOT_REGULAR)
    if info.flag_bits & 0x1:
        raise _refused(name, "it is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(name, f"its compression method {info.compress_type} is not supported")
    _check_ratio(name, info.file_size, info.compress_size)


def _check_ratio(name: str, size: int, compressed: int) -> None:
    if size > _SMALL_BYTES and size > MAX_ZIP_RATIO * compressed:
        raise _refused(name, f"{compressed} bytes would unpack to {size} (decompression bomb)")


def _refused(name: str, reason: str) -> DataError:
    return DataError(f"refused to extract {name!r}: {reason}")


def _wanted(name: str) -> bool:
    """False for files that macOS adds to archives."""
    path = PurePosixPath(name)
    return "__MACOSX" not in path.parts and not path.name.startswith("._") and path.name != ".DS_Store"


def _extract(
    members: list[_Member],
    to: Path,
    label: str,
    *,
    done: Callable[[int], None] | None = None,
    peak_bytes: int | None = None,
) -> Extraction:
    """Write the members that are not on disk yet, in archive order.

    `done` is called with the archive offset up to which everything is on disk. If it frees space meanwhile,
    `peak_bytes` is the additional disk space needed.
    """
    from tqdm import tqdm

    chosen: dict[str, _Member] = {}
    for member in members:
        safe_join(to, member.target)
        earlier = chosen.pop(member.target, None)  # a tar may have a file twice: the last one counts
        if earlier is not None and earlier.name != member.name:
            raise DataError(f"{label} has {earlier.name!r} and {member.name!r} for the same file")
        chosen[member.target] = member

    to.mkdir(parents=True, exist_ok=True)
    missing = {key for key, member in chosen.items() if not is_complete(to / key, member.size)}
    missing_bytes = sum(chosen[key].size for key in missing)
    peak_bytes = missing_bytes if peak_bytes is None else min(missing_bytes, peak_bytes)
    require_space(to, peak_bytes, f"extracting {label}")
    with tqdm(total=missing_bytes, desc=label, unit="B", unit_scale=True, disable=None) as bar:
        for key, member in chosen.items():
            if key in missing:
                _write(member, to / key, bar.update)
            if done is not None:
                done(member.end)
    return Extraction({key: member.size for key, member in chosen.items()}, len(missing))


def _write(member: _Member, target: Path, advance: Callable[[int], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    unfinished.unlink(missing_ok=True)  # left by a killed run; a symlink must not be followed
    try:
        with member.open() as source, unfinished.open("xb") as sink:
            while block := source.read(_COPY_BYTES):
                sink.write(block)
                advance(len(block))
            written = sink.tell()
        if written != member.size:
            raise EOFError(f"{member.name} ends after {written} of {member.size} bytes")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
