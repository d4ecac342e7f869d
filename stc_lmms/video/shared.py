"""Sampled frames kept in memory for the next run over the same videos, up to a number of bytes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stc_lmms.video.decode import VideoStream, open_video


@dataclass
class _Tape:
    """What reading a video has given so far.

    `after_ms[i]` is the decoder's time when frame i came out, `known_s` the time up to which all is here.
    """

    opened: dict[str, Any]
    frames: list[tuple[float, np.ndarray]] = field(default_factory=list)
    after_ms: list[float] = field(default_factory=list)
    known_s: float = 0.0
    end: dict[str, Any] | None = None


_TOLD = ("path", "duration_s", "cut_short", "warnings", "decode_ms")


class SharedVideos:
    """Opens videos; frames that one reader has seen are given to the next without decoding.

    Runs of a grid read the same videos in the same order, so what does not fit any more is simply not kept:
    dropping the oldest would throw away just what the next run needs first.

    Args:
        cap_bytes: pixels held at most.
    """

    def __init__(self, cap_bytes: int = 2 * 2**30):
        self.cap_bytes, self.nbytes = cap_bytes, 0
        self._tapes: dict[tuple, _Tape] = {}

    def open(self, path: str | os.PathLike, **options: Any) -> "SharedVideo":
        """As `open_video`."""
        key = (os.fspath(path), *sorted(options.items()))
        return SharedVideo(self, key, path, options)


class SharedVideo:
    """A `VideoStream` of which another reader's frames are replayed, as long as they last.

    Has what a player asks of a `VideoStream`: `read`, `close`, and the attributes `path`, `ended`,
    `cut_short`, `duration_s`, `warnings` and `decode_ms` (for replayed frames: what decoding them took).
    """

    def __init__(self, shared: SharedVideos, key: tuple, path: str | os.PathLike, options: dict[str, Any]):
        self._shared, self._path, self._options = shared, path, options
        self._video: VideoStream | None = None
        self._given, self._skip = 0, 0
        self.ended = False
        tape = shared._tapes.get(key)
        if tape is None:
            self._video = open_video(path, **options)
            tape = shared._tapes[key] = _Tape({name: getattr(self._video, name) for name in _TOLD})
        self._tape = tape
        self._tell(tape.opened)

    def read(self, until_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """As `VideoStream.read`."""
        tape = self._tape
        wanted = float("inf") if until_s is None else until_s
        if self._video is None and (tape.end is not None or wanted <= tape.known_s):
            while self._given < len(tape.frames) and tape.frames[self._given][0] < wanted:
                self.decode_ms = tape.after_ms[self._given]
                frame = tape.frames[self._given]
                self._given += 1
                yield frame
            if tape.end is not None and self._given == len(tape.frames) and tape.known_s < wanted:
                self._tell(tape.end)
                self.ended = True
            return
        yield from self._decode(until_s)

    def close(self) -> None:
        """Close the decoder, if one is open."""
        if self._video is not None:
            self._video.close()

    def _decode(self, until_s: float | None) -> Iterator[tuple[float, np.ndarray]]:
        """Read on behind what the tape holds, and add to it while there is room."""
        tape, shared = self._tape, self._shared
        if self._video is None:
            self._video, self._skip = open_video(self._path, **self._options), self._given
        recording = self._given == len(tape.frames)
        for time_s, image in self._video.read(until_s):
            if self._skip:  # replayed before; not by time, for a frame may come again
                self._skip -= 1
                continue
            recording = recording and shared.nbytes + image.nbytes <= shared.cap_bytes
            if recording:
                tape.frames.append((time_s, image))
                tape.after_ms.append(self._video.decode_ms)
                shared.nbytes += image.nbytes
            self._given += 1
            yield time_s, image
        self._tell({name: getattr(self._video, name) for name in _TOLD})
        self.ended = self._video.ended
        if recording:
            tape.known_s = self._video.position_s
            if self.ended:
                tape.end = {name: getattr(self._video, name) for name in _TOLD}

    def _tell(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, list(value) if name == "warnings" else value)
