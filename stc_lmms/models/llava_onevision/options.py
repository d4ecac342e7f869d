"""The arguments that only LLaVA-OneVision has."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LlavaOnevisionOptions:
    """Arguments of LLaVA-OneVision alone.

    Attributes:
        prompt: `chat` uses the checkpoint's chat template and its newline token after the video (what
            the stock model does); `rekv` the strings of the ReKV and STC drivers, without newline.
        positions: rotary positions of the tokens that a method keeps. `closed`, as published: each right
            behind the one before, so that frames get shorter; `original`: where they are in the dense
            stream; our own variant. Tokens that a tower method merged have no such place and stand closed.
    """

    prompt: Literal["chat", "rekv"] = "chat"
    positions: Literal["closed", "original"] = "closed"
