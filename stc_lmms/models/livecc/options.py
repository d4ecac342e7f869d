"""The arguments that only LiveCC has; imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal

from stc_lmms.errors import SettingsError
from stc_lmms.models.qwen_vl.options import QwenVLOptions

MOST_CLIP_TOKENS = 768  # LLM tokens of a slice in LiveCC's whole-clip reader


@dataclass(frozen=True)
class LiveCCOptions(QwenVLOptions):
    """Arguments of LiveCC: those of Qwen2-VL, how it reads a clip, and how it comments.

    Attributes:
        grid: `fixed` samples `fps` frames per second, each once for all questions. `released` is the
            whole-clip reader of LiveCC's evaluation: two frames per second, at most 480, spread over
            what every question sees; a slice has at most 768 LLM tokens, fewer the longer the clip is (105
            from about 460 frames on), instead of `slice_tokens`.
        repetition_penalty: as above; LiveCC's demo uses 1.05.
        positions: position ids in a commentary: `livecc` gives the video of all but the first step the
            same one on all axes, as LiveCC's demo does; `mrope` gives every video three axes, as in training.
        silence_base: while a comment is written, " ..." is ruled out unless its probability is above this;
            None: never.
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

    @property
    def largest_slice(self) -> int:
        """See `QwenVLOptions.largest_slice`."""
        return MOST_CLIP_TOKENS if self.grid == "released" else self.slice_tokens
