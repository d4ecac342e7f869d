"""The arguments that only the Qwen-VL family has; imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal

from stc_lmms.errors import SettingsError


@dataclass(frozen=True)
class QwenVLOptions:
    """Arguments of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

    Attributes:
        slice_tokens: most LLM tokens of a temporal slice (two frames) before compression;
            frames are resized to that, once for a whole stream. 384 is LiveCC's live limit.
        min_slice_tokens: approximate minimum.
        repetition_penalty: divides the likelihood of every token that occurs before the answer; 1 is off.
        answer: `generate` decodes an answer; `choices` takes the most likely of Yes, No, 0 to 9 and A to E
            after "The answer is:", as LiveCC's evaluation of OVO-Bench does.
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

    @property
    def largest_slice(self) -> int:
        """LLM tokens that a slice may have in any stream."""
        return self.slice_tokens
