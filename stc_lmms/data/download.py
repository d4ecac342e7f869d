"""`stc-lmms data fetch`: download a benchmark from the dataset hub and unpack it into a root."""

import errno
import json
import logging
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from stc_lmms.data.archives import extract_tar, extract_zip, is_complete, require_space
from stc_lmms.data.roots import question_files
from stc_lmms.data.source import DataSource
from stc_lmms.errors import DataError
from stc_lmms.suggest import unknown

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
# Lists what was unpacked, so that a second fetch after --delete-parts does not download again.
_MARKER_FOLDER = ".stc-lmms"


def fetch(
    source: DataSource, to: Path, portions: Sequence[str] | None = None, *, delete_parts: bool = False
) -> Path:
    """Download a benchmark and unpack it. Complete files are kept: call it again to resume.

    Archives and question files that are already in `to` are used as they are; if all are there, no network is
    needed.

    Args:
        source: the benchmark's files.
        to: data root to fill; afterwards set the source's environment variable to it.
        portions: portions to download; None is the default one.
        delete_parts: delete every archive as soon as it is unpacked. If unpacking a split tar is then
            interrupted, its deleted parts are downloaded again.

    Returns:
        The data root.

    Raises:
        DataError: Unknown portion, no network, too little disk space, or a damaged or unsafe archive.
    """
    names = list(portions) if portions is not None else [source.default_portion]
    for name in names:
        if name not in source.portions:
            raise DataError(unknown(f"part of {source.name}", name, source.portions))
    to = to.expanduser()
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create {to}: {error}") from error

    requested = {name: source.portions[name] for name in names}
    groups = {group: name for name, portion in requested.items() for group in portion.archives}
    pending = {group: name for group, name in groups.items() if not _is_unpacked(to, group)}
    questions = [portion for portion in requested.values() if not question_files(to, portion, source)]
    urls = {p.questions: source.questions_url for p in questions if not p.hub_questions}
    hub_questions = [file for portion in questions for file in portion.hub_questions]
    hub_files = hub_questions + [file for group in pending for file in group if not (to / file).is_file()]
    hint = _manual_hint(source, hub_files, urls, to)

    if hub_files:
        _check_hub(source, to, hub_files, pending, delete_parts, hint)
    for file, folder_url in urls.items():
        _download_url(folder_url + file, to / file, hint)
    for file in hub_questions:
        _download(source, file, to, hint)
    # One archive at a time, so that deleting keeps disk usage low.
    for group, name in pending.items():
        for file in group:
            if not (to / file).is_file():
                _download(source, file, to, hint)
        _unpack(source, name, group, to, delete_parts)
    if delete_parts:  # archives that an earlier run kept
        for file in (file for group in groups for file in group):
            (to / file).unlink(missing_ok=True)
    return to


def _manual_hint(source: DataSource, hub_files: Sequence[str], urls: Mapping[str, str], to: Path) -> str:
    items = [folder_url + file for file, folder_url in urls.items()]
    if hub_files:
        items.append(f"{', '.join(map(repr, hub_files))} of huggingface.co/datasets/{source.hub_id}")
    return f"download {' and '.join(items)} on another machine, put them at {to} and run this command again"


@contextmanager
def _reaching_hub(hint: str, to: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # huggingface_hub's transports raise various types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise DataError(f"cannot write to {to}: {reason}") from error
        raise DataError(f"cannot reach the dataset hub ({reason}); {hint}") from error


def _check_hub(
    source: DataSource,
    to: Path,
    hub_files: Sequence[str],
    pending: Mapping[tuple[str, ...], str],
    delete_parts: bool,
    hint: str,
) -> None:
    """Check that the files exist and the disk is large enough; fails quickly without a network."""
    from huggingface_hub import HfApi

    with _reaching_hub(hint, to):
        info = HfApi().dataset_info(source.hub_id, files_metadata=True, timeout=_TIMEOUT_S)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if absent := [file for file in hub_files if file not in sizes]:
        raise DataError(f"{absent[0]!r} is not in the hub dataset {source.hub_id} any more")
    archive_bytes = [sizes.get(file, 0) for group in pending for file in group]
    # Videos hardly compress, so unpacked files are about as large as their archive.
    unpacked_bytes = max(archive_bytes, default=0) if delete_parts else sum(archive_bytes)
    download_bytes = sum(sizes[file] for file in hub_files)
    logger.info("%s: %.1f GB to download from %s", source.name, download_bytes / 1e9, source.hub_id)
    require_space(to, download_bytes + unpacked_bytes, f"downloading and unpacking {source.name}")


def _download(source: DataSource, file: str, to: Path, hint: str) -> None:
    from huggingface_hub import hf_hub_download

    with _reaching_hub(hint, to):
        hf_hub_download(source.hub_id, file, repo_type="dataset", local_dir=to, etag_timeout=_TIMEOUT_S)


def _download_url(url: str, target: Path, hint: str) -> None:
    """Download a question file of a code repository, a JSON list."""
    from huggingface_hub import constants

    with _reaching_hub(hint, target.parent):
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("offline mode is enabled by HF_HUB_OFFLINE")
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310 - a constant of ours
            body: bytes = response.read()
        rows = json.loads(body)
        if not (isinstance(rows, list) and rows):
            raise ValueError(f"{url} is not a JSON list")
        unfinished = target.with_name(target.name + ".part")
        unfinished.write_bytes(body)
        unfinished.replace(target)


def _unpack(source: DataSource, portion: str, group: tuple[str, ...], to: Path, delete_parts: bool) -> None:
    archives = [to / file for file in group]
    if group[0].endswith(".zip"):
        rename = partial(source.unpacked_path, portion, group[0]) if source.unpacked_path else str
        done = extract_zip(archives[0], to, rename=rename, delete_archive=delete_parts)
    else:
        done = extract_tar(archives, to, delete_parts=delete_parts)
    marker = _marker(to, group)
    marker.parent.mkdir(exist_ok=True)
    marker.write_text(json.dumps(done.sizes))
    logger.info("%s: %d of %d files written", group[0], done.written, len(done.sizes))


def _marker(to: Path, group: tuple[str, ...]) -> Path:
    return to / _MARKER_FOLDER / f"{group[0]}.json"


def _is_unpacked(to: Path, group: tuple[str, ...]) -> bool:
    """True if an earlier fetch unpacked the archive and its files are all still there."""
    try:
        sizes: dict[str, int] = json.loads(_marker(to, group).read_text())
        return all(is_complete(to / name, size) for name, size in sizes.items())
    except (OSError, ValueError, AttributeError, TypeError):  # no marker, or a damaged one
        return False
