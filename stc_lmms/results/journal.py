"""The journal: every finished request on disk at once, so that a killed run loses nothing.

lmms-eval hands all requests to the model in one call and keeps the answers in memory until the end. The
journal is an append-only JSONL file per rank. A run reads all ranks' files of its folder at its start and
skips what is there; failures are recorded but tried again. A line cut short by a kill is ignored. A run that
is told to stop also leaves the answers of requests that it has begun.
"""

import errno
import hashlib
import json
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import stc_lmms
from stc_lmms.errors import StcError

logger = logging.getLogger(__name__)


class Journal:
    """Finished requests by key.

    Args:
        folder: where the `rank*.jsonl` files are; made if needed.
        rank: whose file to append to.
    """

    def __init__(self, folder: Path, rank: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"rank{rank}.jsonl"
        self._entries: dict[str, dict[str, Any]] = {}
        self._failures: dict[str, dict[str, Any]] = {}
        self._begun: dict[str, dict[str, Any]] = {}
        for file in sorted(folder.glob("rank*.jsonl")):
            self._read(file)
        torn = self.path.exists() and self.path.stat().st_size and not _ends_with_newline(self.path)
        self._file = self.path.open("ab", buffering=0)
        if torn:
            self._file.write(b"\n")

    def _read(self, file: Path) -> None:
        # not splitlines(): it also cuts at characters that JSON leaves in a string, such as U+2028
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
            try:
                entry = json.loads(line)
                key = entry["key"]
            except (ValueError, KeyError, TypeError):
                if line.strip():
                    logger.warning("%s line %d is incomplete; that request runs again", file, number)
                continue
            self._take(key, entry)

    def _take(self, key: str, entry: dict[str, Any]) -> None:
        kind = "failed" if entry.get("failed") else "begun" if entry.get("begun") else ""
        {"failed": self._failures, "begun": self._begun, "": self._entries}[kind][key] = entry

    def __len__(self) -> int:
        """Requests that need not run again."""
        return len(self._entries)

    def keys(self) -> frozenset[str]:
        """Keys of these requests."""
        return frozenset(self._entries)

    def get(self, key: str) -> dict[str, Any] | None:
        """The entry of a finished request, or None."""
        return self._entries.get(key)

    def last(self, key: str) -> dict[str, Any] | None:
        """The entry of a request, be it a failure; None if it was never asked."""
        return self._entries.get(key) or self._failures.get(key)

    def begun(self, key: str) -> dict[str, Any] | None:
        """The entry of a request that a stopped run has begun, with its first answers, or None."""
        return self._begun.get(key)

    def put(self, key: str, entry: dict[str, Any]) -> None:
        """Record a request, whole, or with `begun` set as far as it was answered; on disk when this returns.

        Raises:
            StcError: the file cannot be written, as on a full disk.
        """
        entry = {"key": key} | entry
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        try:
            # One unbuffered write: lines of jobs that share the file do not mix.
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            why = f"cannot write the journal {self.path} ({error.strerror})"
            raise StcError(f"{why}; finished requests are kept: make room and start again") from None
        self._take(key, entry)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def request_key(**parts: Any) -> str:
    """Hash of all that decides a request's answer, and of this package's code."""
    text = json.dumps(parts | {"code": code_digest()}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_identity(path: str) -> list[Any]:
    """Path, size and modification time: changes when a video is replaced."""
    try:
        stat = os.stat(path)
    except OSError:
        return [path]
    return [path, stat.st_size, stat.st_mtime_ns]


def folder_identity(path: str) -> list[Any]:
    """Identities of the files of a local checkpoint; for a hub id just the id."""
    if not os.path.isdir(path):
        return [path]
    return [
        file_identity(entry.path)
        for entry in sorted(os.scandir(path), key=lambda e: e.name)
        if entry.is_file()
    ]


@cache
def code_digest() -> str:
    """Version and content of this package: answers of other code are never reused."""
    root = Path(stc_lmms.__file__).parent
    digest = hashlib.sha256(stc_lmms.__version__.encode())
    for file in sorted(root.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
