"""Read the parts of a split file as one stream."""

import bisect
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path


class JoinedParts(io.RawIOBase):
    """The parts of a split file as one seekable, read-only stream; no part stays open between two reads."""

    def __init__(self, parts: Sequence[Path]):
        self._parts = list(parts)
        # Offset after each part in the joined stream.
        self.ends = list(itertools.accumulate(part.stat().st_size for part in self._parts))
        self._position = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset of the joined stream."""
        size = self.ends[-1] if self.ends else 0
        offset += {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        if offset < 0:
            raise ValueError(f"negative seek position {offset}")
        self._position = offset
        return offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the end of the current part; returns 0 at the end of the last one."""
        index = bisect.bisect_right(self.ends, self._position)  # skips empty parts
        if index == len(self._parts):
            return 0
        with self._parts[index].open("rb", buffering=0) as file:
            file.seek(self._position - (self.ends[index - 1] if index else 0))
            count = file.readinto(buffer)
        if not count:
            raise EOFError(f"{self._parts[index]} became shorter while it was read")
        self._position += count
        return count

    def delete_before(self, offset: int) -> None:
        """Delete the parts that end at or before an offset of the joined stream."""
        for part, end in zip(self._parts, self.ends, strict=True):
            if end <= offset:
                part.unlink(missing_ok=True)
