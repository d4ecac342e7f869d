"""Frames to measure with: drifting noise, or frames of a video, whose decoding is then timed too."""

import itertools
from pathlib import Path

import numpy as np

from stc_lmms.errors import StcError

SIZE = (480, 640)


def synthetic_frames(count: int, seed: int = 0) -> tuple[np.ndarray, list[float]]:
    """Drifting noise: uint8 [count,480,640,3], each frame a little different from the last, and times."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (*SIZE, 3), dtype=np.int16)
    frames = np.empty((count, *SIZE, 3), np.uint8)
    for number in range(count):
        frames[number] = frame
        frame = np.clip(frame + rng.integers(-12, 13, frame.shape, dtype=np.int16), 0, 255)
    return frames, [2.0 * number for number in range(count)]


def video_frames(
    path: Path, counts: tuple[int, ...], fps: float, repeats: int
) -> tuple[np.ndarray, list[float], dict[int, list[float]]]:
    """The first sampled frames of a video, and how long it takes to read them.

    Returns:
        Frames uint8 [F,H,W,3] and times in s for the largest count; for every count, `repeats` durations in
        ms, which include opening the file and starting its decoder.

    Raises:
        StcError: the video cannot be read or is too short.
    """
    from stc_lmms.video import open_video  # needs a decoder, which a GPU machine may not have

    samples_ms: dict[int, list[float]] = {count: [] for count in counts}
    for count, _ in itertools.product(sorted(counts), range(repeats)):
        with open_video(path, fps=fps) as stream:
            taken = list(itertools.islice(stream.read(), count))
            samples_ms[count].append(round(stream.decode_ms, 4))
        if len(taken) < count:
            raise StcError(f"{path} has only {len(taken)} frames at {fps} fps; {count} were asked for")
    return np.stack([image for _, image in taken]), [time_s for time_s, _ in taken], samples_ms
