"""Read a video as a stream of sampled RGB frames, in order, without holding the file in memory.

    with open_video("talk.mp4", fps=0.5) as stream:
        before = list(stream.read(until_s=25.5))  # (time in s, image) up to 25.5 s
        more = list(stream.read(until_s=40.0))  # continues from there

Decoding runs in a worker process with a timeout, because decord hangs and aborts on some files. With
`decoder="auto"` PyAV takes over at the same frame when decord fails, and `backend` and `warnings` say so.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stc_lmms.errors import SettingsError, VideoError
from stc_lmms.video.delivery import Delivery
from stc_lmms.video.process import DecoderProcess
from stc_lmms.video.sampling import FixedTimes, Sampling, check_fps

DECODERS = ("auto", "decord", "pyav", "torchcodec")
# decord freezes on MPEG-TS and reports wrong times for AVI, so it only gets containers it reads well.
_DECORD_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})
_PLAYLIST_STARTS = (b"#EXTM3U", b"ffconcat")
AGAIN = "download or convert it again"


@dataclass(frozen=True)
class VideoInfo:
    """How long a video is."""

    duration_s: float  # where the last readable video packet ends, seconds from the first frame
    claimed_s: float | None  # where the video ends according to the file; None if it does not say
    cut_short: str  # why `duration_s` is not the length of the whole video, in one line; "" if it is


class VideoStream:
    """A causal reader of one video; not thread-safe.

    Args:
        path: The file.
        fps: Sampling rate, frames per second; see `sampling.frame_step` for the rounding.
        start_s: Start of the clip, seconds in the source video; sampling starts there.
        decoder: "auto": decord for .mp4 .m4v .mov .mkv .webm read from the start, with PyAV as the fallback;
            PyAV for everything else, and for clips, because only PyAV can check where a seek landed.
            "decord", "pyav" and "torchcodec" use that one or fail.
        timeout_s: Longest time without progress before the decoder counts as hung.
        times_s: Explicit sampling times, not decreasing, seconds in the source video; replaces `fps`.
        exact: Sample every `1 / fps` seconds; see `Sampling.of`.

    Attributes:
        position_s: Every sampled frame before this time has been read.
        cut_short: Once `ended`: why this is not the end of the whole video, in one line; "" if it is.
        duration_s: Length of the video: as the decoder expects it, measured once `ended`; or None.
        n_frames: Number of frames the decoder expects, or None.
        avg_fps: Average frame rate of the source, or None.
        n_damaged: Damaged packets skipped so far.
        decode_ms: Time spent waiting for the decoder so far, including its start, in milliseconds.
        warnings: Messages for the user.

    Raises:
        SettingsError: An argument is out of range.
        VideoError: The file is missing or cannot be decoded; one line with path, reason and fix.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        fps: float = 0.5,
        start_s: float = 0.0,
        decoder: str = "auto",
        timeout_s: float = 60.0,
        times_s: Sequence[float] | None = None,
        exact: bool = False,
    ) -> None:
        if decoder not in DECODERS:
            raise SettingsError(f"decoder={decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
        if not (math.isfinite(start_s) and start_s >= 0):
            raise SettingsError(f"start_s={start_s!r} must be a finite number of seconds, 0 or more")
        if not timeout_s > 0:
            raise SettingsError(f"timeout_s={timeout_s!r} must be above 0 seconds")
        self._fps, self._decoder, self._timeout_s = check_fps(fps), decoder, timeout_s
        self._times_s, self._exact = None if times_s is None else tuple(times_s), exact
        self.path = _local_video(path)
        self.start_s = self.position_s = float(start_s)
        self.ended = False
        self.cut_short = ""
        self.duration_s: float | None = None
        self.avg_fps: float | None = None
        self.n_damaged = 0
        self.decode_ms = 0.0
        self.warnings: list[str] = []
        self._backends = [decoder]
        if decoder == "auto":
            by_decord = self.path.suffix.lower() in _DECORD_SUFFIXES and start_s == 0
            self._backends = ["decord", "pyav"] if by_decord else ["pyav"]
        self._worker: DecoderProcess | None = None
        self._next_k, self._closed = 0, False
        self._pending = self._receive(just_open=True)

    @property
    def backend(self) -> str:
        """The decoder in use: "decord", "pyav" or "torchcodec"."""
        return self._backends[0]

    def read(self, until_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """All sampled frames before `until_s` (exclusive; None: the end) that have not been read yet.

        At the end of the video the iterator ends and `ended` is true. If the caller stops early, the next
        `read` continues with the next frame.

        Yields:
            (sampling time in seconds of the source video, uint8 RGB [H,W,3] of the frame on screen then).

        Raises:
            VideoError: Every decoder that may be used has failed.
            ValueError: `until_s` is not a number, or the stream is closed.
        """
        until_s = math.inf if until_s is None else until_s
        if math.isnan(until_s):
            raise ValueError(f"until_s={until_s!r} must be a number of seconds")
        # Sampling times are known, so the window is complete without decoding anything after it.
        while not self.ended and self.sampling.time_s(self._next_k) < until_s:
            frame = self._pending or self._receive()
            self._pending = None
            if frame is None:
                return
            k, image = frame
            time_s = self.sampling.time_s(k)
            if time_s >= until_s:  # nothing was on screen at the sampling times in between
                self._pending = frame
                break
            self._next_k, self.position_s = k + 1, time_s
            yield time_s, image
        if not self.ended:
            self.position_s = max(self.position_s, until_s)

    def close(self) -> None:
        """Stop decoding; the stream cannot be read afterwards. Safe to call twice."""
        self._closed = True
        self._stop_worker()

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _receive(self, just_open: bool = False) -> tuple[int, np.ndarray] | None:
        """The next (k, frame), or None at the end; switches to the next decoder when one fails."""
        if self._closed:
            raise ValueError(f"the stream of {self.path} is closed")
        start_ns = time.monotonic_ns()
        try:
            while True:
                try:
                    if self._worker is None:
                        self._start_worker()
                    return None if just_open else self._unpack(*self._worker.receive())
                except VideoError as error:
                    self._fall_back(error)
        finally:
            self.decode_ms += (time.monotonic_ns() - start_ns) / 1e6

    def _start_worker(self) -> None:
        job = {"backend": self.backend, "path": str(self.path), "first_k": self._next_k}
        job |= {"fps": self._fps, "start_s": self.start_s, "avg_fps": self.avg_fps}
        job |= {"exact": self._exact, "times_s": self._times_s}
        self._worker = DecoderProcess(job, self._timeout_s)
        info, _ = self._worker.receive()
        self.duration_s, self.n_frames = info["duration_s"], info["n_frames"]
        self.avg_fps = self.avg_fps or info["avg_fps"]
        self.sampling: Sampling | FixedTimes = Sampling.of(self.avg_fps, self._fps, self.start_s, self._exact)
        if self._times_s is not None:
            self.sampling = FixedTimes(self._times_s)

    def _unpack(self, header: dict[str, Any], pixels: bytearray) -> tuple[int, np.ndarray] | None:
        self.n_damaged = header["n_damaged"]
        if header["kind"] == "frame":
            shape = header["height"], header["width"], 3
            return header["k"], np.frombuffer(pixels, np.uint8).reshape(shape)
        delivery = _delivery(header)
        self.duration_s = delivery.delivered_s
        self.ended, self.position_s = True, max(self.position_s, self.duration_s)
        self.cut_short = delivery.cut_short(self.avg_fps)
        if self.n_damaged:
            self.warnings.append(f"{self.path}: {self.n_damaged} damaged pieces were skipped")
        if self.cut_short:
            self.warnings.append(f"{self.path}: {self.cut_short}")
        self.close()
        return None

    def _fall_back(self, error: VideoError) -> None:
        """Continue with the next decoder, or give up."""
        self._stop_worker()
        others = self._backends[1:]
        if not others:
            self._closed = True
            fix = AGAIN if self._decoder in ("auto", "pyav") else "try decoder=auto"
            raise VideoError(f"cannot decode {self.path}: {error}; {fix}") from error
        self._backends = others
        self.warnings.append(
            f"{self.path}: decoding with {others[0]} from {self.position_s:g} s on ({error})"
        )


def open_video(path: str | os.PathLike, **options: Any) -> VideoStream:
    """Open a local video file for causal reading; `options` are those of `VideoStream`."""
    return VideoStream(path, **options)


def iter_frames(
    path: str | os.PathLike, *, end_s: float | None = None, **options: Any
) -> Iterator[tuple[float, np.ndarray]]:
    """The sampled frames of [start_s, end_s); `options` are those of `VideoStream`."""
    with open_video(path, **options) as stream:
        yield from stream.read(end_s)


def probe(path: str | os.PathLike, *, timeout_s: float = 60.0) -> VideoInfo:
    """The length of a video; decodes its first frame and reads all packets, which finds most broken files.

    Raises:
        VideoError: The file is missing or has no frame that can be decoded; one line.
    """
    with open_video(path, timeout_s=timeout_s) as stream:
        if next(stream.read(), None) is None:
            raise VideoError(f"cannot decode {stream.path}: it has no frames; {AGAIN}")
    worker = DecoderProcess({"backend": "scan", "path": str(stream.path)}, timeout_s)
    try:
        header, _ = worker.receive()
    except VideoError as error:
        raise VideoError(f"cannot read {stream.path} to its end: {error}; {AGAIN}") from error
    finally:
        worker.close()
    delivery = _delivery(header)
    return VideoInfo(delivery.delivered_s, delivery.claimed_s, delivery.cut_short(stream.avg_fps))


def _delivery(header: dict[str, Any]) -> Delivery:
    return Delivery(header["claimed_s"], header["delivered_s"], header["damaged_at_end"])


def _local_video(path: str | os.PathLike) -> Path:
    """The absolute path of an existing, readable file; keeps addresses and playlists from FFmpeg."""
    text = os.fspath(path)
    if "://" in text:
        raise VideoError(f"{text} is an address, not a local file; download it first")
    video = Path(text).absolute()
    if video.is_dir():
        raise VideoError(f"{video} is a folder, not a video; name a file in it")
    if not video.is_file():
        raise VideoError(f"{video} does not exist; check the path or download the videos")
    try:
        with video.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise VideoError(f"cannot read {video}: {error.strerror}; check its permissions") from error
    if not start:
        raise VideoError(f"{video} is empty (0 bytes); download it again")
    if start.startswith(_PLAYLIST_STARTS):
        raise VideoError(f"{video} is a playlist, not a video; download the video it names")
    return video
