"""The arguments that only the Qwen-VL family has."""

import math
from dataclasses import dataclass
from typing import Literal

from stc_lmms.errors import SettingsError


@dataclass(frozen=True)
class QwenVLOptions:
    """Arguments of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

    Attributes:
        slice_tokens: a temporal slice (two frames) has at most so many LLM tokens before compression;
            frames are resized to that, once for a whole stream. 384 is LiveCC's live limit.
        min_slice_tokens: and about at least so many.
        repetition_penalty: divides the likelihood of every token that stands anywhere before; 1 is off.
        answer: `generate` decodes an answer; `choices` takes the likeliest of Yes, No, 0 to 9 and A to E
            behind "The answer is:", as LiveCC's evaluation of OVO-Bench does.
    """

    slice_tokens: int = 384
    min_slice_tokens: int = 100
    repetition_penalty: float = 1.0
    answer: Literal["generate", "choices"] = "generate"

    def __post_init__(self):
        """Check ranges."""
        if self.min_slice_tokens < 1:
            raise SettingsError(f"min_slice_tokens={self.min_slice_tokens} must be at least 1")
        if self.slice_tokens < self.min_slice_tokens:
            raise SettingsError(
                f"slice_tokens={self.slice_tokens} must be at least min_slice_tokens={self.min_slice_tokens}"
            )
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise SettingsError(f"repetition_penalty={self.repetition_penalty} must be a number above 0")


@dataclass(frozen=True)
class LiveCCOptions(QwenVLOptions):
    """Arguments of LiveCC: those of Qwen2-VL, how it reads a clip, and how it comments.

    Attributes:
        grid: `fixed` samples `fps` frames per second, each once for all questions. `released` is the
            whole-clip reader of LiveCC's evaluation: two frames per second, at most 480, spread anew over
            what every question sees; a slice has at most 768 LLM tokens, fewer the longer the clip is (105
            from about 460 frames on), in place of `slice_tokens`.
        repetition_penalty: as above; 1.05 is what LiveCC's demo uses.
        positions: of a commentary's steps: `livecc` gives the video of all but the first step the same
            place on all axes, as LiveCC's demo does; `mrope` gives every video three axes, as in training.
        silence_base: while a comment is written, " ..." is ruled out where its probability is not above
            this; None: never.
        silence_step: raises that bound with every token of the comment.
    """

    grid: Literal["fixed", "released"] = "fixed"
    repetition_penalty: float = 1.05
    positions: Literal["livecc", "mrope"] = "livecc"
    silence_base: float | None = None
    silence_step: float = 0.0

    def __post_init__(self):
        """Check ranges."""
        super().__post_init__()
        if self.silence_base is not None and not 0 <= self.silence_base <= 1:
            raise SettingsError(f"silence_base={self.silence_base} must be a probability, 0 to 1")
        if not (math.isfinite(self.silence_step) and self.silence_step >= 0):
            raise SettingsError(f"silence_step={self.silence_step} must not be negative")
