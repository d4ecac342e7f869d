"""Live sources: a camera, a network stream, a pipe, a file that is still being written, or an ordinary file.

A thread takes frames from the decoder process as they arrive and queues them until the model is ready; the
backlog policy says what happens when the model is too slow.
"""

import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stc_lmms.errors import VideoError
from stc_lmms.video.process import DecoderProcess
from stc_lmms.video.sampling import Sampling

Backlog = Literal["queue", "drop"]
_MAX_WAITING = 256  # then the source has to wait, so that memory stays bounded
ADDRESSES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "tcp", "http", "https")


def describe_source(source: str, follow: bool) -> dict[str, Any]:
    """The fields of a decoder job that say what to open.

    Args:
        source: a file or named pipe, `-` for standard input, an address such as `rtsp://...`, or the
            number of a camera.
        follow: the file is still being written: at its end, wait for more.

    Raises:
        VideoError: there is no such file or camera, or the kind of address is unknown.
    """
    if source.isdecimal():
        device = Path(f"/dev/video{source}")
        if sys.platform == "linux" and not device.exists():
            raise VideoError(f"there is no camera {source} ({device} does not exist)")
        return {"path": str(device), "format": "v4l2"}
    if "://" in source:
        scheme = source.partition("://")[0].lower()
        if scheme not in ADDRESSES:
            raise VideoError(f"{source}: {scheme!r} is not a kind of stream; known: {', '.join(ADDRESSES)}")
        return {"path": source, "protocols": f"{scheme},tcp,udp,rtp,tls,crypto"}
    if source == "-":  # the decoder's own standard input is its link to this process
        return {"path": f"/proc/{os.getpid()}/fd/0", "pipe": True}
    path = Path(source).absolute()
    if not path.exists():
        raise VideoError(f"{path} does not exist; give a file, a pipe, an address or the number of a camera")
    if path.is_dir():
        raise VideoError(f"{path} is a folder, not a video; name a file in it")
    return {"path": str(path), "pipe": stat.S_ISFIFO(path.stat().st_mode), "follow": follow}


class LiveSource:
    """Sampled frames of a live source; iterate over `waiting()`.

    Args:
        source, follow: see `describe_source`.
        fps, exact: see `Sampling.of`.
        backlog: `queue` keeps every frame until it is taken (a source that is far ahead has to wait),
            `drop` keeps only the newest one.
        stall_s: seconds without a new frame after which the source counts as lost.
        realtime: deliver the frames of a file no faster than it plays.

    Attributes:
        n_dropped: frames dropped by the backlog policy.
        longest_backlog: largest number of frames that ever waited.
        failure: why the source was interrupted; None if it ended normally or is still running.

    Raises:
        VideoError: it cannot be opened.
    """

    def __init__(
        self,
        source: str,
        fps: float = 0.5,
        backlog: Backlog = "queue",
        stall_s: float = 10.0,
        follow: bool = False,
        realtime: bool = False,
        exact: bool = False,
    ):
        self.name, self.backlog, self.stall_s, self.realtime = source, backlog, stall_s, realtime
        self.n_dropped = self.longest_backlog = 0
        self.failure: VideoError | None = None
        job = {"backend": "live", "fps": fps, "start_s": 0.0, "avg_fps": None, "first_k": 0, "exact": exact}
        job |= describe_source(source, follow) | {"stall_s": stall_s}
        # The worker itself ends a file that stops growing, so give it time to do so.
        self._worker = DecoderProcess(job, stall_s + (5.0 if follow else 0.0))
        self._frames: deque[tuple[float, np.ndarray]] = deque()
        self._arrived, self._ended, self._closed = threading.Condition(), False, False
        try:
            info, _ = self._worker.receive()
        except VideoError as error:
            self._worker.close()
            raise VideoError(f"cannot open {source}: {error}") from error
        self.sampling = Sampling.of(info["avg_fps"], fps, exact=exact)
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def waiting(self, at_most: int) -> Iterator[list[tuple[float, np.ndarray]]]:
        """Yield lists of 1 to `at_most` frames, (time in s, uint8 RGB [H,W,3]), until the source ends."""
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._frames or self._ended)
                taken = [self._frames.popleft() for _ in range(min(at_most, len(self._frames)))]
                self._arrived.notify_all()
            if not taken:
                return
            yield taken

    def close(self) -> None:
        """Stop the decoder."""
        self._closed = True
        self._worker.close()
        self._end()

    def __enter__(self) -> "LiveSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> None:
        start_s = time.monotonic()
        try:
            while True:
                header, pixels = self._worker.receive()
                if header["kind"] == "end":
                    break
                time_s = self.sampling.time_s(header["k"])
                if self.realtime:
                    time.sleep(max(0.0, time_s - (time.monotonic() - start_s)))
                image = np.frombuffer(pixels, np.uint8).reshape(header["height"], header["width"], 3)
                self._put(time_s, image)
        except VideoError as error:
            self.failure = VideoError(f"{self.name} broke off: {error}")
        except (OSError, ValueError) as error:
            if not self._closed:  # otherwise we stopped the worker ourselves
                self.failure = VideoError(f"{self.name} broke off: {type(error).__name__}: {error}")
        finally:
            self._end()

    def _end(self) -> None:
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    def _put(self, time_s: float, image: np.ndarray) -> None:
        with self._arrived:
            if self.backlog == "drop":
                self.n_dropped += len(self._frames)
                self._frames.clear()
            self._arrived.wait_for(lambda: len(self._frames) < _MAX_WAITING or self._ended)
            self._frames.append((time_s, image))
            self.longest_backlog = max(self.longest_backlog, len(self._frames))
            self._arrived.notify_all()
