"""The arguments that only LLaVA-OneVision has; imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LlavaOnevisionOptions:
    """Arguments of LLaVA-OneVision alone.

    Attributes:
        prompt: `chat` uses the checkpoint's chat template and its newline token after the video, as the
            stock model does; `rekv` the strings of the ReKV and STC drivers, without newline.
        positions: position ids of the tokens that a method keeps. `closed`, as published: contiguous, so
            that frames get shorter; `original`, our own variant: those of the dense stream. Tokens merged
            by a tower method have no original position and are always contiguous.
    """

    prompt: Literal["chat", "rekv"] = "chat"
    positions: Literal["closed", "original"] = "closed"
