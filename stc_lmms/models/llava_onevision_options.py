"""The arguments that only LLaVA-OneVision has."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LlavaOnevisionOptions:
    """Arguments of LLaVA-OneVision alone.

    Attributes:
        prompt: `chat` uses the checkpoint's chat template and its newline token after the video (what
            the stock model does); `rekv` the strings of the ReKV and STC drivers, without newline.
    """

    prompt: Literal["chat", "rekv"] = "chat"
