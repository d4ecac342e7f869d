"""Shared by DyCoke and StreamDyCoke: tokens are compared with the same position in earlier frames.

Shapes: N tokens per frame, W frames kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from stc_lmms.lazy import Tensor, functional
from stc_lmms.methods.base import State
from stc_lmms.methods.budget import one_of, within


@dataclass(frozen=True)
class LastFrames(State):
    """Number of frames so far, and the tokens [W,N,D] of the last ones."""

    frames: int = 0
    last: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self.last is None else self.last.nbytes


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """Cosine along the last axis, in float32.

    Also for float64 tokens: where a frame repeats an earlier one, all cosines are 1 up to rounding, and the
    order is that of float32 rounding, as in the original.
    """
    return functional.cosine_similarity(x.float(), y.float(), dim=-1)


def between_anchors(token_budget: int, tokens: int, every: int) -> tuple[int, ...]:
    """Tokens kept of each frame after an anchor, so that `every` frames keep `every * token_budget`.

    The anchor keeps all tokens. The remainder of the division goes to the later frames.

    Raises:
        SettingsError: the anchors alone exceed the budget, or it exceeds the tokens of a frame.
    """
    within(token_budget, tokens)
    lowest = tokens if every == 1 else -(-tokens // every)
    why = f"one frame in {every} keeps all its {tokens} tokens"
    one_of(token_budget, range(lowest, tokens + 1), why)
    left = every * token_budget - tokens
    if every == 1:
        return ()
    base, extra = divmod(left, every - 1)
    return tuple(base + (i >= every - 1 - extra) for i in range(every - 1))
