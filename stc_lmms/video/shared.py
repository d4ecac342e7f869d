"""Cache of sampled frames for several runs over the same videos, limited in bytes."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stc_lmms.video.decode import VideoStream, open_video


@dataclass
class _Recording:
    """What has been read of a video so far."""

    opened: dict[str, Any]  # attributes of the reader when it was opened
    frames: list[tuple[float, np.ndarray]] = field(default_factory=list)  # (sampling time in seconds, image)
    decode_ms: list[float] = field(default_factory=list)  # for every frame, the decoder's total time after it
    complete_until_s: float = 0.0  # all frames before this time are here
    end: dict[str, Any] | None = None  # attributes of the reader at the end of the video, once reached


class SharedVideos:
    """Opens videos; frames that one reader has decoded are replayed to the next, up to `cap_bytes` of pixels.

    Experiments read the same videos in the same order, so frames that do not fit are not kept: evicting the
    oldest would drop exactly what the next run needs first.
    """

    def __init__(self, cap_bytes: int = 2 * 2**30):
        self.cap_bytes, self.nbytes = cap_bytes, 0
        self._recordings: dict[tuple, _Recording] = {}

    def open(self, path: str | os.PathLike, **options: Any) -> "SharedVideo":
        """As `open_video`."""
        key = (os.fspath(path), *sorted(options.items()))
        return SharedVideo(self, key, path, options)


class SharedVideo:
    """What a session needs of a `VideoStream`; replays another reader's frames as far as there are any.

    `decode_ms` of replayed frames is what decoding them took.
    """

    def __init__(self, shared: SharedVideos, key: tuple, path: str | os.PathLike, options: dict[str, Any]):
        self._shared, self._path, self._options = shared, path, options
        self._video: VideoStream | None = None
        self._n_read, self._skip = 0, 0
        self.ended = False
        if key not in shared._recordings:
            self._video = open_video(path, **options)
            shared._recordings[key] = _Recording(_state(self._video))
        self._recording = shared._recordings[key]
        self._set_state(self._recording.opened)

    def read(self, until_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """As `VideoStream.read`."""
        until_s = math.inf if until_s is None else until_s
        recorded = self._recording.end is not None or until_s <= self._recording.complete_until_s
        yield from self._replay(until_s) if self._video is None and recorded else self._decode(until_s)

    def close(self) -> None:
        """Close the decoder, if one is open."""
        if self._video is not None:
            self._video.close()

    def _replay(self, until_s: float) -> Iterator[tuple[float, np.ndarray]]:
        recording = self._recording
        while self._n_read < len(recording.frames) and recording.frames[self._n_read][0] < until_s:
            self.decode_ms = recording.decode_ms[self._n_read]
            self._n_read += 1
            yield recording.frames[self._n_read - 1]
        at_end = self._n_read == len(recording.frames) and recording.complete_until_s < until_s
        if recording.end is not None and at_end:
            self._set_state(recording.end)
            self.ended = True

    def _decode(self, until_s: float) -> Iterator[tuple[float, np.ndarray]]:
        """Decode the frames after those that were replayed, and record them while there is room."""
        shared, recording = self._shared, self._recording
        if self._video is None:
            self._video, self._skip = open_video(self._path, **self._options), self._n_read
        recording_on = self._n_read == len(recording.frames)
        for time_s, image in self._video.read(until_s):
            if self._skip:  # by count and not by time, because sampling times may repeat
                self._skip -= 1
                continue
            recording_on = recording_on and shared.nbytes + image.nbytes <= shared.cap_bytes
            if recording_on:
                recording.frames.append((time_s, image))
                recording.decode_ms.append(self._video.decode_ms)
                shared.nbytes += image.nbytes
            self._n_read += 1
            yield time_s, image
        self._set_state(_state(self._video))
        self.ended = self._video.ended
        if recording_on:
            recording.complete_until_s = self._video.position_s
            if self.ended:
                recording.end = _state(self._video)

    def _set_state(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, list(value) if name == "warnings" else value)


def _state(video: VideoStream) -> dict[str, Any]:
    names = ("path", "duration_s", "cut_short", "warnings", "decode_ms")
    return {name: getattr(video, name) for name in names}
