"""The multiple-choice evaluation of ReKV and its two neighbours' frame choices.

Prompt, letter rule and encode windows of the ReKV drivers (STC uses the same), and the frame grid of
StreamForest. All are kept for parity runs; the benchmarks here have their own prompts and scorers.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

REKV_OPENING = "Best option: ("
REKV_ANSWER_PREFIX = f"<|im_end|><|im_start|>assistant\n{REKV_OPENING}"


def rekv_question(question: str, choices: Sequence[str]) -> str:
    """Return question and choices as ReKV lays them out, letters in parentheses."""
    lines = "".join(f"({chr(ord('A') + i)}) {choice}\n" for i, choice in enumerate(choices))
    return f"Question: {question}\nOptions:\n{lines}Only give the best option."


def rekv_prompt(question: str, choices: Sequence[str]) -> str:
    """Return the text that follows the video, up to the open parenthesis the model completes.

    The bare question alone drives retrieval.
    """
    return f"\n{rekv_question(question, choices)}{REKV_ANSWER_PREFIX}"


def rekv_choice(text: str, default: str | None = None) -> str:
    """Return the letter ReKV reads: the character before the first ")", else the first one.

    Args:
        text: what the model wrote after the prompt; stripped first, case is kept.
        default: answer for an empty text; STC uses "A", ReKV has none.

    Raises:
        IndexError: empty text and no default, as in ReKV.
    """
    text = text.strip()
    if not text and default is not None:
        return default
    position = text.find(")")
    return text[0] if position < 0 else text[max(position - 1, 0) : position]


def rekv_windows(end_times_s: Iterable[float], fps: float, n_frames: int) -> list[tuple[int, int] | None]:
    """Return the frames [a, b) that ReKV's stream driver encodes before each question.

    Args:
        end_times_s: question times in seconds, in the order they are asked.
        fps: sampled frames per second.
        n_frames: sampled frames of the video.

    Returns:
        One window per question, None where there is nothing new. The end is truncated, so a question at
        25.5 s and 0.5 fps sees 12 frames where a chunk of 25.5 s has 13.
    """
    windows: list[tuple[int, int] | None] = []
    position = 0
    for seconds in end_times_s:
        end = min(int(seconds * fps), n_frames)
        windows.append((position, end) if end > position else None)
        position = max(position, end)
    return windows


def streamforest_frames(n_frames: int, fps: float, min_frames: int = 4, max_frames: int = 2048) -> list[int]:
    """Return StreamForest's `dynamic_fps1` indices: the middle of int(duration + 1) equal intervals.

    The grid depends on the length of the clip, so it cannot be streamed. Clips shorter than
    `min_frames` frames use every frame.
    """
    if n_frames < 1:
        raise ValueError(f"n_frames must be at least 1, got {n_frames}")
    wanted = max(min(math.floor(n_frames / fps + 1), max_frames), min_frames)
    count = min(wanted, n_frames)
    step = n_frames / count  # edges by a float step, as numpy.linspace: i * n // count differs by one
    edges = [int(i * step) for i in range(count)] + [n_frames]
    return [(low + high - 1) // 2 for low, high in pairwise(edges)]
