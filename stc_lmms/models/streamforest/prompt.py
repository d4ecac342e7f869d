"""StreamForest's prompt: the chat format, and a sentence about the times of the frames.

Source: the released evaluation (StreamForest, arXiv 2509.24871); strings are equal byte for byte.
"""

from collections.abc import Sequence
from typing import Literal

PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_END = "<|im_end|>\n<|im_start|>assistant\n"
END_OF_TURN = "<|im_end|>"

TimeText = Literal["short_online_v2", "short_online", "short", "long"]


def time_sentence(kind: TimeText, times_s: Sequence[float], duration_s: float = 0.0) -> str:
    """The sentence about the frames, with white space at both ends as in the original.

    Args:
        kind: `short_online_v2` and `short_online` describe a stream up to the present moment, `short` and
            `long` a whole video.
        times_s: time stamp of every frame.
        duration_s: length of the video; only for `short` and `long`.
    """
    count, seconds = len(times_s), [round(time_s, 1) for time_s in times_s]
    first, last = seconds[0], seconds[-1]
    if kind == "short_online_v2":
        text = (
            f"The video contains {count} frames sampled from the past {last - first:.1f} seconds ago "
            f"({first:.1f}s of the entire video) up to the present moment ({last:.1f}s of the entire video)."
        )
    elif kind == "short_online":
        text = (
            f"The video segment contains {count} frames sampled from the past {last - first:.1f} seconds ago "
            "up to the present moment."
        )
    elif kind == "short":
        text = (
            f"The video lasts for {duration_s:.2f} seconds, and {count} frames are uniformly sampled from it."
        )
    else:
        at = ", ".join(map(str, seconds))
        text = (
            f"The video lasts for {duration_s:.2f} seconds, and {count} frames are uniformly sampled "
            f"at {at} seconds."
        )
    return f"\n{text} "


def suffix(question: str, sentence: str = "") -> str:
    """Text after the video: the sentence about its frames, if any, the question, and the end of the turn."""
    about = f"{sentence.rstrip()} " if sentence else ""
    return f"\n{about}{question}{_END}"
