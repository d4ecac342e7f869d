"""The decoder of live sources that runs inside the worker: PyAV, forward only, opened once."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from stc_lmms.errors import VideoError
from stc_lmms.video.backends import PyAVSource

_POLL_INTERVAL_S = 0.1


class GrowingFile:
    """A pipe or growing file for PyAV, not seekable: PyAV would look for an end that is not there yet.

    At the end it waits for more, at most `patience_s` seconds (0 for a pipe, which signals its end).
    """

    def __init__(self, path: str, patience_s: float):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - stays open as long as the source
        self._patience_s = patience_s
        self._finished = False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        deadline_s = time.monotonic() + self._patience_s
        while not (data := self._file.read(size)):
            # A demuxer reads several times at the end: only wait the first time.
            if self._finished or time.monotonic() >= deadline_s:
                self._finished = True
                return b""
            time.sleep(_POLL_INTERVAL_S)
        return data


class LiveInput(PyAVSource):
    """A camera, an address, a pipe or a growing file; `job`: see `live.describe_source`, and `stall_s`."""

    def __init__(self, job: dict[str, Any], tick: Callable[[], None]):
        self._job = job
        super().__init__(job["path"], tick)

    def _open(self) -> None:
        job = self._job
        try:
            if job.get("pipe") or job.get("follow"):
                file = GrowingFile(job["path"], job["stall_s"] if job.get("follow") else 0.0)
                self._container = self._av.open(file, metadata_errors="replace")
            else:
                self._container = self._av.open(
                    job["path"],
                    format=job.get("format"),
                    metadata_errors="replace",
                    timeout=job["stall_s"] if "protocols" in job else None,
                    options={"protocol_whitelist": job.get("protocols", "file")},
                )
        except (self._av.error.FFmpegError, OSError) as error:
            raise VideoError(error.strerror or type(error).__name__) from error
        if not self._container.streams.video:
            raise VideoError("it has no video")
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            raise VideoError("its video codec is not supported here")
        self._stream.thread_type = "SLICE"  # frame threads would hold back the newest frames

    def _decode_all(self, time_s: float) -> Iterator[tuple[float, float, Any]]:
        return self._decode()

    def _packets(self, stream: Any) -> Iterator[Any]:
        try:
            yield from self._container.demux(stream)
        except self._av.error.EOFError:
            yield None
        except (self._av.error.FFmpegError, OSError) as error:
            raise VideoError(f"no more data ({error.strerror or os.strerror(5)})") from error
