"""Which moments of a video the model sees, and the frame on screen at each of them.

As in ReKV and STC every `step`-th frame is sampled, with a whole `step`. Here that is a rule about *times*:
`t_k = start_s + k * step / avg_fps`, and the frame of `t_k` is the last one presented at or before `t_k`. For
a constant frame rate that is exactly frame `k * step`; for a variable one, counting frames is off by seconds.
Models that count in seconds use exact times, `t_k = start_s + k / fps`; a video with a lower frame rate then
repeats frames. A clip that starts at `start_s` is sampled as if the video had been cut there.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from stc_lmms.errors import SettingsError

# Containers round presentation times to a millisecond (Matroska) and decord stores them as float32.
TOLERANCE_S = 1e-3

Frame = TypeVar("Frame")


def check_fps(fps: float) -> float:
    """Return `fps`, or raise `SettingsError` if it is zero, negative, infinite or not a number."""
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not (math.isfinite(fps) and fps > 0):
        raise SettingsError(f"fps={fps!r} must be a finite number above 0, for example 0.5")
    return float(fps)


def frame_step(avg_fps: float, fps: float) -> int:
    """Source frames per sampled frame, at least 1, from the frame rate of the video and the sampling rate.

    The source rate is rounded to a whole number first, half to even, as in ReKV and STC: 0.5 fps of 29.97 fps
    video is every 60th frame. Where those fail with a step of 0 (sampling faster than the video), every frame
    is taken.

    Raises:
        SettingsError: A rate is not finite and positive.
    """
    if not (math.isfinite(avg_fps) and avg_fps > 0):
        raise SettingsError(f"avg_fps={avg_fps!r} must be a finite number above 0")
    return max(1, int(round(avg_fps) / check_fps(fps)))


def spread_indices(
    n_frames: int,
    avg_fps: float,
    clip_s: tuple[float, float] | None = None,
    max_frames: int = 2048,
    min_frames: int = 4,
) -> list[int]:
    """Indices of about one frame per second, spread evenly over a clip: StreamForest's `dynamic_fps1`.

    The clip is divided into one piece per second (rounded up), and the middle frame of every piece is taken,
    so all indices depend on where the clip ends.

    Args:
        n_frames: frames of the video.
        avg_fps: its average frame rate.
        clip_s: start and end of the clip in seconds, limited to the video less 0.1 s; None: whole video.
        max_frames: largest number of indices.
        min_frames: smallest number of indices, if the clip has that many frames.
    """
    first, count = 0, n_frames
    if clip_s is not None:
        start_s, end_s = max(0.0, clip_s[0]), min(n_frames / check_fps(avg_fps) - 0.1, clip_s[1])
        first, count = math.floor(start_s * avg_fps), math.floor((end_s - start_s) * avg_fps)
    if count <= 0:
        return []
    samples = max(min(math.floor(count / check_fps(avg_fps) + 1), max_frames), min(min_frames, count))
    pieces = min(samples, count)
    edges = np.linspace(0, count, pieces + 1).astype(int)
    middles = [first + int(a + b - 1) // 2 for a, b in itertools.pairwise(edges)]
    return middles + middles[-1:] * (samples - pieces)


@dataclass(frozen=True)
class Sampling:
    """Sampling times of one video: `start_s + k * step_s` for k = 0, 1, 2, ..."""

    start_s: float
    step_s: float

    @classmethod
    def of(cls, avg_fps: float | None, fps: float, start_s: float = 0.0, exact: bool = False) -> "Sampling":
        """Sampling times for a video.

        Args:
            avg_fps: Average frame rate of the video; None implies `exact`.
            fps: Sampling rate, frames per second.
            start_s: Where the clip starts, seconds in the source video.
            exact: Sample every `1 / fps` seconds instead of every `frame_step` frames.
        """
        if exact or avg_fps is None:
            return cls(start_s, 1 / check_fps(fps))
        return cls(start_s, frame_step(avg_fps, fps) / avg_fps)

    def time_s(self, k: int) -> float:
        """Sampling time `k` to the microsecond: float noise must not push it over a window edge."""
        return round(self.start_s + k * self.step_s, 6)

    def count_before(self, until_s: float) -> int:
        """Number of sampling times below `until_s`.

        The causal window [a, b) contains sampling times `range(count_before(a), count_before(b))`.
        """
        count = max(0, math.ceil((until_s - self.start_s) / self.step_s))
        while count > 0 and self.time_s(count - 1) >= until_s:
            count -= 1
        while self.time_s(count) < until_s:
            count += 1
        return count


@dataclass(frozen=True)
class FixedTimes:
    """Sampling times of one video, listed: not decreasing; a repeated time repeats its frame."""

    times_s: tuple[float, ...]

    def time_s(self, k: int) -> float:
        """Sampling time `k`; infinity after the last one."""
        return self.times_s[k] if k < len(self.times_s) else math.inf

    def count_before(self, until_s: float) -> int:
        """Number of sampling times below `until_s`."""
        return bisect.bisect_left(self.times_s, until_s)


def on_screen(
    frames: Iterable[tuple[float, float, Frame]],
    sampling: Sampling | FixedTimes,
    first_k: int = 0,
    interval_s: float = 0.0,
) -> Iterator[tuple[int, Frame]]:
    """The frame on screen at every sampling time from `first_k` on, as (k, frame); reads one frame ahead.

    Sampling times before the first frame are skipped, except that a first frame late by up to `interval_s`
    counts as on screen from the start (edit lists cut inside a frame). The last frame stays for its own
    duration.

    Args:
        frames: (presentation time in seconds, duration in seconds, frame) in order of time.
        sampling: The sampling times.
        first_k: First sampling time to yield.
        interval_s: Usual distance between frames; also the duration of a last frame that has none.
    """
    k = first_k
    shown: list[Frame] = []  # a list, because None is a possible frame
    end_s = -math.inf
    for time_s, duration_s, frame in frames:
        if shown:
            while sampling.time_s(k) + TOLERANCE_S < time_s:
                yield k, shown[0]
                k += 1
        else:
            k = max(k, sampling.count_before(time_s - interval_s - TOLERANCE_S))
        shown = [frame]
        end_s = time_s + (duration_s or interval_s)
    while sampling.time_s(k) + TOLERANCE_S < end_s:
        yield k, shown[0]
        k += 1
