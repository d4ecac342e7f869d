"""`stc-lmms data fetch`: download a benchmark from the dataset hub and unpack it into a root."""

import json
import logging
import shutil
import urllib.request
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from stc_lmms.data.archives import Extraction, extract_tar, extract_zip, is_complete, require_space
from stc_lmms.data.catalog import STREAMINGBENCH, Benchmark, Part, find_benchmark, flat_video_name
from stc_lmms.data.roots import annotation_file
from stc_lmms.errors import DataError

logger = logging.getLogger(__name__)

_TIMEOUT_S = 15
# Remembers what was extracted, so that a second fetch after --delete-parts does not download again.
_MARKER_FOLDER = ".stc-lmms"


def fetch(
    benchmark: str,
    to: Path,
    parts: Sequence[str] | None = None,
    *,
    delete_parts: bool = False,
    progress: bool = True,
) -> Path:
    """Download a benchmark and unpack it. Whatever is complete already is kept: call it again to resume.

    Archives and question files that were put into `to` by hand are used as they are; with all of them there,
    no network is needed.

    Args:
        benchmark: "ovobench" or "streamingbench".
        to: Root folder to fill; set the benchmark's environment variable to it afterwards.
        parts: What to get: "src" (default), "chunked" for ovobench; "real" (default), "omni", "sqa",
            "proactive" for streamingbench.
        delete_parts: Delete every archive as soon as it is unpacked. An interrupted unpacking then has to
            download the deleted archives again.
        progress: Show progress bars.

    Returns:
        The root folder.

    Raises:
        DataError: An unknown name, no network, too little disk space, or a damaged or unsafe archive.
    """
    source = find_benchmark(benchmark)
    names = list(parts) if parts is not None else [next(iter(source.parts))]
    if unknown := [name for name in names if name not in source.parts]:
        raise DataError(f"unknown part {unknown[0]!r} of {benchmark}; known: {', '.join(source.parts)}")
    to = to.expanduser()
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create {to}: {error}") from error

    chosen = {name: source.parts[name] for name in names}
    pending = [
        (name, group) for name, part in chosen.items() for group in part.archives if not _unpacked(to, group)
    ]
    hub_files = [file for _, group in pending for file in group]
    hub_files += [file for part in chosen.values() if not _has_questions(to, part) for file in part.hub_questions]
    urls = {
        part.questions: source.questions_url + part.questions
        for part in chosen.values()
        if not part.hub_questions and not _has_questions(to, part)
    }
    missing = [file for file in hub_files if not (to / file).is_file()]
    wanted = [*_abbreviated(missing, source), *urls.values()]
    try:
        if missing:
            _check_space(source, to, missing, hub_files, delete_parts)
        for file, url in urls.items():
            _download_url(url, to / file)
        archives = {file for _, group in pending for file in group}
        for file in missing:
            if file not in archives:
                _download_hub(source, file, to)
        for name, group in pending:
            for file in group:
                if not (to / file).is_file():
                    _download_hub(source, file, to)
            _unpack(source, name, group, to, delete_parts, progress)
    except _network_errors() as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"cannot reach the dataset hub ({reason}); download {' and '.join(wanted)} on another machine, put "
            f"them at {to} and run the same command again"
        ) from error
    return to


def _has_questions(to: Path, part: Part) -> bool:
    names = [Path(file).name for file in part.hub_questions]
    return _found(to, part.questions) or (bool(names) and all(_found(to, name) for name in names))


def _found(to: Path, name: str) -> bool:
    try:
        annotation_file(to, name)
    except DataError:
        return False
    return True


def _network_errors() -> tuple[type[Exception], ...]:
    """What a failing download raises; the HTTP library below huggingface_hub differs between its versions."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(base for base in HfHubHTTPError.__bases__ if base is not OSError))


def _abbreviated(files: Iterable[str], source: Benchmark) -> list[str]:
    names = [repr(file) if " " in file else file for file in files]
    if not names:
        return []
    return [f"{', '.join(names)} from {source.hub_id} (huggingface.co/datasets/{source.hub_id})"]
