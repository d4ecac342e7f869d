"""What Dispider says and how it samples, byte for byte as released. No tensors, no models."""

from collections.abc import Sequence
from dataclasses import dataclass

TO_DO, HAS_ANSWER = "<to_do>", "<has_answer>"
END_OF_TURN = "<|im_end|>"
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def time_sentence(start_s: float, end_s: float) -> str:
    """What stands before the tokens of a clip; whole seconds, halves to even as NumPy rounds."""
    return f"This contains a clip sampled in {round(start_s)} to {round(end_s)} seconds"


def decision_question(question: str) -> str:
    """What the compact model reads."""
    return question + TO_DO


def reaction_prompt(question: str, opening: str = "", image_markers: bool = False) -> tuple[str, str]:
    """What stands before and behind the video in the prompt of the model that answers.

    Args:
        question: the whole prompt of a benchmark.
        opening: words that the answer begins with.
        image_markers: put `<im_start>` and `<im_end>` around the video.
    """
    before, after = ("<im_start>", "<im_end>") if image_markers else ("", "")
    begun = f" {opening}" if opening else ""
    return f"{_SYSTEM} USER: {before}", f"{after}\n{question} ASSISTANT:{begun}"


@dataclass(frozen=True)
class Sampling:
    """How the released scripts cut a whole video.

    Attributes:
        indices: frame numbers, clip after clip.
        spans_s: start and end of each clip in seconds, from the start of its first frame to the end of its
            last one.
    """

    indices: tuple[int, ...]
    spans_s: tuple[tuple[float, float], ...]


def released_sampling(
    frame_times_s: Sequence[tuple[float, float]],
    avg_fps: float,
    frames_per_clip: int = 16,
    max_clips: int = 100,
    min_clips: int = 1,
) -> Sampling:
    """About one frame per second: as many clips as fit, frames in the middle of equal pieces of the video.

    Args:
        frame_times_s: start and end of every frame, in seconds.
        avg_fps: average frame rate, frames per second.
        frames_per_clip: frames of a clip, which therefore spans about as many seconds.
        max_clips: at most so many; then frames are further apart.
        min_clips: at least so many; then frames are closer.
    """
    frames = len(frame_times_s)
    clips = min(max(round(frames / avg_fps / frames_per_clip), min_clips), max_clips)
    total = clips * frames_per_clip
    piece = (frames - 1) / total
    indices = [(round(piece * i) + round(piece * (i + 1))) // 2 for i in range(total)]
    ends = [(indices[i], indices[i + frames_per_clip - 1]) for i in range(0, total, frames_per_clip)]
    spans = [(frame_times_s[first][0], frame_times_s[last][1]) for first, last in ends]
    return Sampling(tuple(indices), tuple(spans))
