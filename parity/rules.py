"""Rules of the original evaluators that the golden cases record and the package itself does not use.

Prompt ending and encode windows of the ReKV drivers, StreamForest's frame grid, and the two counters that
StreamingBench results were published with.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from stc_lmms.benchmarks.offline import REKV_OPENING, rekv_question


def rekv_prompt(question: str, choices: Sequence[str]) -> str:
    """The text after the video, up to the open parenthesis that the model completes."""
    return f"\n{rekv_question(question, choices)}<|im_end|><|im_start|>assistant\n{REKV_OPENING}"


def rekv_windows(end_times_s: Iterable[float], fps: float, n_frames: int) -> list[tuple[int, int] | None]:
    """Frame ranges that the stream driver encodes before each question; None if there are no new frames.

    The end is truncated: a question at 25.5 s and 0.5 fps sees 12 frames, a chunk of 25.5 s has 13.
    """
    windows: list[tuple[int, int] | None] = []
    position = 0
    for seconds in end_times_s:
        end = min(int(seconds * fps), n_frames)
        windows.append((position, end) if end > position else None)
        position = max(position, end)
    return windows


def streamforest_frames(n_frames: int, fps: float, min_frames: int = 4, max_frames: int = 2048) -> list[int]:
    """StreamForest's `dynamic_fps1` indices: the middle of int(duration + 1) equal intervals.

    The grid depends on the length of the clip, so it cannot be streamed. Clips shorter than `min_frames`
    frames use every frame.

    Raises:
        ValueError: no frames.
    """
    if n_frames < 1:
        raise ValueError(f"n_frames must be at least 1, got {n_frames}")
    count = min(max(min(math.floor(n_frames / fps + 1), max_frames), min_frames), n_frames)
    step = n_frames / count  # float steps as in numpy.linspace: i * n // count may differ by one
    edges = [int(i * step) for i in range(count)] + [n_frames]
    return [(low + high - 1) // 2 for low, high in pairwise(edges)]


def official_first_char(response: str | None, answer: str, part: str = "real") -> int | None:
    """StreamingBench's counter: the first character equals the gold letter, so " C" and "(C)" are wrong.

    Returns:
        1, 0, or None if the counter skips the question (`sqa` without a response).

    Raises:
        IndexError: empty response in another part, as in the original.
        TypeError: None in another part, as in the original.
    """
    if part == "sqa" and not response:
        return None
    return int(response[0] == answer)  # type: ignore[index]  # the original crashes on None


def stc_strip_equal(response: str | None, answer: str) -> int | None:
    """STC's counter: the stripped text equals the letter; an empty response is skipped (None)."""
    text = (response or "").strip()
    return int(text == answer) if text else None
