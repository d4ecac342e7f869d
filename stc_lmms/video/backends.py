"""The decoders that run inside the worker: decord, PyAV and (on request) torchcodec.

All have the interface `Source`. Times start at 0 with the video stream, whatever offset the container has.
Library errors become `VideoError` with a reason in plain words and no path. decord and PyAV return the same
pixels: both follow the file's colour matrix and range and apply its rotation (PyAV with our help). torchcodec
handles both in its own way.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from stc_lmms.errors import VideoError
from stc_lmms.video.delivery import TOLERANCE_S as END_TOLERANCE_S
from stc_lmms.video.delivery import Delivery
from stc_lmms.video.sampling import TOLERANCE_S, FixedTimes, Sampling, on_screen

_BROKEN = "the file is damaged, incomplete or not a video"
_NO_CODEC = "its video codec is not supported here (H.264 always is)"
_NO_VIDEO = "it has no video stream (audio only?)"
_SEEK_MARGIN_S = 1.0
_MAX_READ_FAILURES = 50


@dataclass(frozen=True)
class StreamInfo:
    """What a container says about its video stream; None where it says nothing."""

    duration_s: float | None
    n_frames: int | None
    avg_fps: float | None


class Source(ABC):
    """One open video in one decoder; `end_s` and `damaged_at_end` are known after the last frame."""

    info: StreamInfo
    n_damaged: int = 0
    damaged_at_end: bool = False
    end_s: float | None = None

    @abstractmethod
    def frames(self, sampling: Sampling | FixedTimes, first_k: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (k, uint8 RGB [H,W,3]) from sampling time `first_k` on."""


class PyAVSource(Source):
    """PyAV: tolerates damage, knows exact times, and can check where a seek landed."""

    def __init__(self, path: str, tick: Callable[[], None]) -> None:
        import av

        self._av, self._path, self._tick = av, path, tick
        self._threads, self._flush_failed = "AUTO", False
        self._open()
        rate = self._stream.average_rate or self._stream.guessed_rate
        avg_fps = float(rate) if rate else None
        self._interval_s = 1 / avg_fps if avg_fps else 0.0
        self.info = StreamInfo(self._claimed_duration_s(), self._stream.frames or None, avg_fps)

    def _open(self) -> None:
        try:
            # Tags are often not UTF-8; a disguised playlist must not make FFmpeg open other addresses.
            self._container = self._av.open(
                self._path, metadata_errors="replace", options={"protocol_whitelist": "file"}
            )
        except (self._av.error.FFmpegError, OSError) as error:
            raise VideoError(f"{_BROKEN} ({error.strerror})") from error
        cover = "attached_pic"  # the picture of an audio file
        videos = self._container.streams.video
        streams = [s for s in videos if cover not in str(getattr(s, "disposition", ""))]
        if not streams:
            raise VideoError(_NO_VIDEO)
        self._stream = streams[0]
        if self._stream.codec_context is None:  # decoding would crash the process
            raise VideoError(_NO_CODEC)
        self._stream.thread_type = self._threads

    def _claimed_duration_s(self) -> float | None:
        stream, container = self._stream, self._container
        if stream.duration:
            return float(stream.duration * stream.time_base)
        if not container.duration:
            return None
        # Matroska stores the end time, other formats a length.
        offset = max(0, container.start_time or 0) if "matroska" in container.format.name else 0
        return (container.duration - offset) / 1e6

    def frames(self, sampling: Sampling | FixedTimes, first_k: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `Source`; starts with a seek unless the first frame is near the start."""
        decoded = self._decode_all(sampling.time_s(first_k))
        for k, frame in on_screen(decoded, sampling, first_k, self._interval_s):
            yield k, _upright_rgb(frame)
        if self.end_s is None:
            raise VideoError(f"no frame could be decoded; {_BROKEN}")

    def _decode_all(self, time_s: float) -> Iterator[tuple[float, float, Any]]:
        """(time in s, duration in s, frame) from the frame on screen at `time_s`, or earlier, to the end."""
        last_s = -math.inf
        for decoded in self._decode_from(time_s):
            last_s = decoded[0]
            yield decoded
        if self._flush_failed:
            # If the last packet is truncated, frame threads lose their frames; how many depends on the core
            # count. Decode the tail again without them.
            n_damaged, self._threads = self.n_damaged, "SLICE"
            self._container.close()
            self._open()
            yield from (decoded for decoded in self._decode_from(last_s) if decoded[0] > last_s)
            self.n_damaged = n_damaged

    def _decode_from(self, time_s: float) -> Iterator[tuple[float, float, Any]]:
        """Seek, then decode; decodes from the start if the seek lands too late."""
        if time_s > _SEEK_MARGIN_S:
            target = int((time_s - _SEEK_MARGIN_S) / self._stream.time_base) + (self._stream.start_time or 0)
            try:
                self._container.seek(target, stream=self._stream, backward=True)
            except self._av.error.FFmpegError:
                first = None
            else:
                sought = self._decode()
                first = next(sought, None)
            if first is not None and first[0] <= time_s:
                yield first
                yield from sought
                return
            self._container.close()
            self._open()
        yield from self._decode()

    def _decode(self) -> Iterator[tuple[float, float, Any]]:
        stream = self._stream
        start, time_base = stream.start_time or 0, stream.time_base
        time_s = -self._interval_s
        for packet in self._packets(stream):
            flush = packet is None or packet.size == 0
            if not flush:
                self.damaged_at_end = packet.is_corrupt
            try:
                frames = stream.decode(packet)
            except self._av.error.FFmpegError:
                self.n_damaged += 1
                self.damaged_at_end, self._flush_failed = True, flush
                continue
            for frame in frames:
                # Raw streams have no time stamps: count frames.
                timeless = frame.pts is None
                time_s = time_s + self._interval_s if timeless else float((frame.pts - start) * time_base)
                duration_s = float((getattr(frame, "duration", 0) or 0) * time_base)
                self.end_s = max(self.end_s or 0.0, time_s + (duration_s or self._interval_s))
                self._tick()
                yield time_s, duration_s, frame

    def _packets(self, *streams: Any) -> Iterator[Any]:
        """Packets up to the end; reading errors are counted and skipped, up to a limit."""
        for _ in range(_MAX_READ_FAILURES):
            try:
                yield from self._container.demux(*streams)
                return
            except self._av.error.FFmpegError:
                self.n_damaged += 1
                self.damaged_at_end = True
        yield None  # the reader never saw the end: flush the decoder

    def scan(self) -> Delivery:
        """Read all packets without decoding, to find where a file was cut off; it then yields no frames."""
        stream = self._stream
        start_s = float((stream.start_time or 0) * stream.time_base)
        begin_s = min(start_s, (self._container.start_time or 0) / 1e6)  # of all streams
        end_s = whole_end_s = 0.0
        for packet in self._packets():
            self._tick()
            if packet is None or packet.size == 0:
                continue
            self.damaged_at_end = packet.is_corrupt
            is_video, ticks = packet.stream is stream, packet.dts if packet.pts is None else packet.pts
            if packet.is_corrupt or (ticks is None and not is_video):
                continue
            if ticks is None:  # raw streams have no time stamps: count frames
                end_s += self._interval_s
                continue
            length_s = float((packet.duration or 0) * packet.time_base) or self._interval_s * is_video
            packet_end_s = float(ticks * packet.time_base) + length_s
            whole_end_s = max(whole_end_s, packet_end_s - begin_s)
            end_s = max(end_s, packet_end_s - start_s) if is_video else end_s
        claimed_s = self.info.duration_s
        of_video = stream.duration or claimed_s is None or claimed_s < end_s + END_TOLERANCE_S
        if not of_video and claimed_s < whole_end_s + END_TOLERANCE_S:
            claimed_s = None  # the length of the audio
        return Delivery(claimed_s, round(end_s, 6), self.damaged_at_end)


class DecordSource(Source):
    """decord: what ReKV and STC use, and slightly faster; fails on damaged files.

    Read strictly in sequence: `seek_accurate`, `get_batch` and `skip_frames` across a key frame all seek, and
    land some frames off on HEVC with open GOPs and on variable-rate files. `skip_frames` up to the frame
    before a key frame, followed by one `next` across it, does not seek.
    """

    def __init__(self, path: str, tick: Callable[[], None]) -> None:
        import decord
        from decord.base import DECORDError

        self._errors = (DECORDError, RuntimeError, AssertionError)
        self._tick = tick
        decord.logging.set_level(decord.logging.QUIET)
        try:
            self._reader = decord.VideoReader(path)
            self._times_s = self._reader.get_frame_timestamp(range(len(self._reader))).astype(float)  # [N,2]
            self._key_indices = np.asarray(self._reader.get_key_indices())
            avg_fps = float(self._reader.get_avg_fps())
        except self._errors as error:
            reason = "no stream it can decode" if "st_nb >= 0" in str(error) else _BROKEN
            raise VideoError(f"decord cannot open it: {reason}") from error
        starts_s = self._times_s[:, 0]
        # Frames before an edit list's start get negative times and are counted, but are never returned.
        if not (abs(starts_s[0]) < TOLERANCE_S and (np.diff(starts_s) >= 0).all() and avg_fps > 0):
            raise VideoError("decord reports wrong frame times for it")
        self.end_s = round(float(self._times_s[-1, 1]), 3)
        self.info = StreamInfo(self.end_s, len(self._reader), avg_fps)
        self._position = 0

    def frames(self, sampling: Sampling | FixedTimes, first_k: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `Source`."""
        starts_s, ends_s = self._times_s.T
        indexed = zip(starts_s, ends_s - starts_s, range(len(starts_s)), strict=True)
        image: np.ndarray | None = None
        for k, index in on_screen(indexed, sampling, first_k, 1 / self.info.avg_fps):
            if image is None or index >= self._position:
                try:
                    self._advance(index)
                    image = self._next()
                except (*self._errors, StopIteration) as error:
                    raise VideoError(f"decord failed near {starts_s[index]:.1f} s: {_BROKEN}") from error
            yield k, image

    def _advance(self, index: int) -> None:
        """Decode up to, but not including, frame `index`."""
        while self._position < index:
            following = np.searchsorted(self._key_indices, self._position, side="right")
            key = self._key_indices[following] if following < len(self._key_indices) else len(self._times_s)
            skip = int(min(index, key - 1, self._position + 32)) - self._position
            if skip > 0:
                self._reader.skip_frames(skip)
                self._position += skip
            else:
                self._next()
            self._tick()

    def _next(self) -> np.ndarray:
        image = self._reader.next().asnumpy()
        self._position += 1
        return image


class TorchcodecSource(Source):
    """torchcodec: only on request; needs FFmpeg's shared libraries and a wheel that matches torch."""

    def __init__(self, path: str, tick: Callable[[], None]) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:
            raise VideoError(
                "torchcodec cannot be loaded: pip install 'stc-lmms[torchcodec]' and FFmpeg's libraries"
            ) from error
        self._tick = tick
        how = {"dimension_order": "NHWC", "num_ffmpeg_threads": 0, "seek_mode": "exact"}
        try:
            self._decoder = VideoDecoder(path, **how)
            metadata = self._decoder.metadata
            self._begin_s = float(metadata.begin_stream_seconds)
            self.end_s = float(metadata.end_stream_seconds) - self._begin_s
        except (RuntimeError, ValueError, TypeError) as error:
            raise VideoError(f"torchcodec cannot open it: {_BROKEN}") from error
        self.info = StreamInfo(self.end_s, metadata.num_frames, metadata.average_fps)

    def frames(self, sampling: Sampling | FixedTimes, first_k: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `Source`; torchcodec's "played at" is our "on screen at"."""
        for k in count(first_k):
            time_s = sampling.time_s(k) + TOLERANCE_S
            if time_s >= self.end_s:
                return
            try:
                frame = self._decoder.get_frame_played_at(self._begin_s + time_s)
            except (RuntimeError, IndexError) as error:
                raise VideoError(f"torchcodec failed near {time_s:.1f} s: {_BROKEN}") from error
            self._tick()
            yield k, np.ascontiguousarray(frame.data.numpy())


def delivery_of(path: str, source: Source, tick: Callable[[], None]) -> Delivery:
    """What the file claims and what a source has delivered; call after its last frame.

    The claim is read with PyAV, because decord mistakes a file cut off between two packets for a short one.
    """
    try:
        claimed_s = PyAVSource(path, tick).info.duration_s
        if claimed_s is not None and claimed_s > source.end_s + END_TOLERANCE_S:
            claimed_s = PyAVSource(path, tick).scan().claimed_s  # may be the length of the audio
    except VideoError:
        claimed_s = None
    return Delivery(claimed_s, source.end_s, source.damaged_at_end)


def _upright_rgb(frame: Any) -> np.ndarray:
    """A PyAV frame as uint8 RGB [H,W,3], bit-equal to decord's.

    By default PyAV converts with BT.601 limited range whatever the file says, up to 20 levels off. Only if
    source and destination differ does it respect the file's matrix and range, so both are given here; those
    of the destination have no effect on RGB.
    """
    full_range = frame.color_range == 2
    rgb = frame.reformat(
        format="rgb24",
        dst_colorspace="ITU601",
        src_color_range="JPEG" if full_range else "MPEG",
        dst_color_range="MPEG",
    )
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, as rot90
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), quarter_turns))


SOURCES: dict[str, Callable[[str, Callable[[], None]], Source]] = {
    "decord": DecordSource,
    "pyav": PyAVSource,
    "torchcodec": TorchcodecSource,
}
