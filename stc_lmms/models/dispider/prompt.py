"""Prompts and frame sampling of Dispider, byte for byte as released."""

from collections.abc import Sequence

TO_DO, HAS_ANSWER = "<to_do>", "<has_answer>"
END_OF_TURN = "<|im_end|>"
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def time_sentence(start_s: float, end_s: float) -> str:
    """The text before the tokens of a clip; whole seconds, halves to even as NumPy rounds."""
    # Time stamps have microseconds; the sum of two must not miss a half by less.
    start, end = (round(round(time_s, 6)) for time_s in (start_s, end_s))
    return f"This contains a clip sampled in {start} to {end} seconds"


def clip_span(times_s: Sequence[float], last_s: float) -> tuple[float, float]:
    """Start and end of a clip from the time stamps of its frames; the last frame lasts `last_s`."""
    return times_s[0], times_s[-1] + last_s


def decision_question(question: str) -> str:
    """The question as the compact model reads it."""
    return question + TO_DO


def reaction_prompt(question: str, opening: str = "", image_markers: bool = False) -> tuple[str, str]:
    """Text before and after the video in the prompt of the model that answers.

    Args:
        question: the whole prompt of a benchmark.
        opening: first words of the answer.
        image_markers: enclose the video in `<im_start>` and `<im_end>`.
    """
    before, after = ("<im_start>", "<im_end>") if image_markers else ("", "")
    begun = f" {opening}" if opening else ""
    return f"{_SYSTEM} USER: {before}", f"{after}\n{question} ASSISTANT:{begun}"


def released_sampling(
    frames: int,
    avg_fps: float,
    clip_s: tuple[float, float] | None = None,
    frames_per_clip: int = 16,
    max_clips: int = 100,
    min_clips: int = 1,
) -> list[int]:
    """Frame numbers, clip after clip, as the released scripts sample a whole video: about one per second.

    Every frame is the middle one of an equal piece of the video.

    Args:
        frames: of the video.
        avg_fps: its average frame rate, frames per second.
        clip_s: start and end in seconds of the part that counts as the video; None: all of it.
        frames_per_clip: frames of a clip, which therefore spans about as many seconds.
        max_clips: limit; frames are then further apart.
        min_clips: minimum number of clips; the distance between frames decreases if necessary.
    """
    first = 0
    if clip_s is not None:
        first, end = round(clip_s[0] * avg_fps), min(frames, round(clip_s[1] * avg_fps))
        frames = end - first
    if frames <= 0:
        return []
    total = frames_per_clip * min(max(round(frames / avg_fps / frames_per_clip), min_clips), max_clips)
    piece = (frames - 1) / total
    return [first + (round(piece * i) + round(piece * (i + 1))) // 2 for i in range(total)]
