"""Read the parts of a split file as one stream."""

import bisect
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO


class JoinedParts(io.RawIOBase):
    """The parts of a split file as one seekable, read-only stream; at most one part is open at a time."""

    def __init__(self, parts: Sequence[Path]):
        self._parts = list(parts)
        # Offset after each part in the joined stream.
        self.ends = list(itertools.accumulate(part.stat().st_size for part in self._parts))
        self._position = 0
        self._current: int | None = None
        self._file: BinaryIO | None = None

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
        file = self._open_part(index)
        file.seek(self._position - (self.ends[index - 1] if index else 0))
        count = file.readinto(buffer)
        if not count:
            raise EOFError(f"{self._parts[index]} became shorter while it was read")
        self._position += count
        return count

    def _open_part(self, index: int) -> BinaryIO:
        if self._file is None or self._current != index:
            self._close_part()
            self._file, self._current = self._parts[index].open("rb", buffering=0), index
        return self._file

    def _close_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = self._current = None

    def delete_before(self, offset: int) -> None:
        """Delete the parts that end at or before an offset of the joined stream."""
        for index, (part, end) in enumerate(zip(self._parts, self.ends, strict=True)):
            if end <= offset:
                if self._current == index:
                    self._close_part()
                part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the open part."""
        self._close_part()
        super().close()
