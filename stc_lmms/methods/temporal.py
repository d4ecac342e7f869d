"""What methods that look back share: DyCoke and StreamDyCoke compare tokens with the same position earlier.

Shapes: F frames, N tokens per frame, W earlier frames, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.methods.base import Compressed, Context, State, TokenMethod
from stc_lmms.methods.budget import Budgeted, one_of, within
from stc_lmms.methods.select import take_each


@dataclass(frozen=True)
class LastFrames(State):
    """Number of frames so far, and the tokens [W,N,D] of the last ones."""

    frames: int = 0
    last: Tensor | None = None


class Anchored(Budgeted, TokenMethod[LastFrames]):
    """Keeps every `anchor_every`-th frame whole, and of the others the tokens unlike earlier ones.

    Attributes:
        history: number of earlier frames, before compression, that `choose` needs.
    """

    state_class = LastFrames
    anchor_every: int
    history: int

    @abstractmethod
    def choose(self, frame_ND: Tensor, earlier_WND: Tensor, position: int) -> Tensor:
        """Indices of the tokens kept of a frame, `position` frames after an anchor; W >= 1 are before it."""

    def compress(
        self, tokens_FND: Tensor, context: Context, state: LastFrames
    ) -> tuple[Compressed, LastFrames]:
        frames, tokens, _ = tokens_FND.shape
        self.check(tokens)
        frames_TND = tokens_FND if state.last is None else torch.cat((state.last, tokens_FND))
        first = len(frames_TND) - frames
        kept: list[Tensor] = []
        for i, frame_ND in enumerate(tokens_FND):
            if position := (state.frames + i) % self.anchor_every:
                kept.append(self.choose(frame_ND, frames_TND[: first + i], position))
            else:
                kept.append(torch.arange(tokens, device=tokens_FND.device))
        new = LastFrames(state.frames + frames, frames_TND[-self.history :].clone())
        return take_each(tokens_FND, kept), new


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
    why = f"one frame in {every} keeps all its {tokens} tokens"
    one_of(token_budget, range(-(-tokens // every), tokens + 1), why)
    if every == 1:
        return ()
    base, extra = divmod(every * token_budget - tokens, every - 1)
    return tuple(base + (i >= every - 1 - extra) for i in range(every - 1))


def running_sums(before: Tensor | None, x_FD: Tensor) -> Tensor:
    """Sums over the frames so far, after each of the F frames; `before` [D] is that of earlier calls."""
    return x_FD.cumsum(0) if before is None else torch.cat((before[None], x_FD)).cumsum(0)[1:]
