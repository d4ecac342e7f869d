"""The journal: every finished request is on disk at once, so that a killed run loses nothing.

It is an append-only JSONL file per rank. A run reads the files of all ranks in its folder when it starts and
skips the requests that they answer; failed ones are tried again. A stopped run also records the answers to
requests that it has only begun.

A line starts with a CRC-32 of the rest, the key and the state, so that opening a journal parses no JSON. Only
the positions of the entries are kept in memory.
"""

import errno
import json
import logging
import os
import re
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stc_lmms.errors import StcError

logger = logging.getLogger(__name__)

State = Literal["done", "failed", "begun"]
_HEADER = re.compile(
    rb'\{"crc": "([0-9a-f]{8})", ("key": ("(?:[^"\\]|\\.)*"), "state": "(done|failed|begun)".*\})\n?'
)
_WITHOUT_CHECKSUM = (b'{"key": ', b"}\n")  # how lines of older versions begin and end


class Header(NamedTuple):
    """The key of a line's request, and how far it was answered."""

    key: str
    state: State


def header(line: bytes) -> Header | None:
    """Key and state of an undamaged line; None for any other."""
    found = _HEADER.fullmatch(line)
    if found is None or int(found[1], 16) != zlib.crc32(found[2]):
        return None
    return Header(json.loads(found[3]), found[4].decode())


class _Position(NamedTuple):
    path: Path
    offset: int
    length: int


class Journal:
    """Requests by key, with their answers.

    Args:
        folder: where the `rank*.jsonl` files are; created if needed.
        rank: whose file to append to.
    """

    def __init__(self, folder: Path, rank: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"rank{rank}.jsonl"
        self._index: dict[State, dict[str, _Position]] = {"done": {}, "failed": {}, "begun": {}}
        for file in sorted(folder.glob("rank*.jsonl")):
            self._read(file)
        torn = self.path.exists() and self.path.stat().st_size and not _ends_with_newline(self.path)
        self._file = self.path.open("ab", buffering=0)
        if torn:
            self._file.write(b"\n")

    def _read(self, path: Path) -> None:
        offset, old = 0, 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                found = header(line)
                if found is not None:
                    self._index[found.state][found.key] = _Position(path, offset, len(line))
                elif line.startswith(_WITHOUT_CHECKSUM[0]) and line.endswith(_WITHOUT_CHECKSUM[1]):
                    old += 1
                elif line.strip():
                    logger.warning("%s line %d is damaged; its request runs again", path, number)
                offset += len(line)
        if old:
            logger.warning("%s: %d answers of an older version are ignored; they run again", path, old)

    def __len__(self) -> int:
        """Number of finished requests."""
        return len(self._index["done"])

    def keys(self) -> frozenset[str]:
        """Keys of the finished requests."""
        return frozenset(self._index["done"])

    def get(self, key: str) -> dict[str, Any] | None:
        """The entry of a finished request, or None."""
        return self._entry(key, "done")

    def last(self, key: str) -> dict[str, Any] | None:
        """The entry of a finished or failed request, or None."""
        return self._entry(key, "done") or self._entry(key, "failed")

    def begun(self, key: str) -> dict[str, Any] | None:
        """The entry of a partly answered request, or None."""
        return self._entry(key, "begun")

    def _entry(self, key: str, state: State) -> dict[str, Any] | None:
        position = self._index[state].get(key)
        if position is None:
            return None
        with position.path.open("rb") as file:
            file.seek(position.offset)
            return json.loads(file.read(position.length))

    def put(self, key: str, entry: dict[str, Any], begun: bool = False) -> None:
        """Record a request; it is on disk when this returns.

        Args:
            key: its key.
            entry: plain JSON values; with a text in `failed`, the request is tried again.
            begun: the request is partly answered, and resumes from there.

        Raises:
            StcError: the file cannot be written, as on a full disk.
        """
        state: State = "failed" if entry.get("failed") else "begun" if begun else "done"
        content = json.dumps({"key": key, "state": state} | entry, ensure_ascii=False)
        body = content[1:].encode()
        line = b'{"crc": "%08x", ' % zlib.crc32(body) + body + b"\n"
        try:
            # One unbuffered write: lines of processes that share the file do not mix.
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            end = self._file.tell()  # after the append, whoever else has written before it
            os.fsync(self._file.fileno())
        except OSError as error:
            why = f"cannot write the journal {self.path} ({error.strerror})"
            raise StcError(f"{why}; finished requests are kept: make room and start again") from None
        self._index[state][key] = _Position(self.path, end - len(line), len(line))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
