"""What DyCoke and StreamDyCoke share: tokens compared with the same position of earlier frames.

Shapes: F frames, N tokens per frame, P patches (N without marker tokens), W frames kept,
D width, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.methods.base import Compressed, Context, State
from stc_lmms.methods.budget import one_of, within


@dataclass(frozen=True)
class LastFrames(State):
    """Frames seen, and the patches [W,P,D] of the last few."""

    frames: int = 0
    last: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the frames kept."""
        return 0 if self.last is None else self.last.nbytes


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """Cosine along the last axis, in float32.

    Also of float64 tokens: where a frame repeats an earlier one, all cosines are 1 up to rounding, and
    which is the lowest is that of float32, here and in the original.
    """
    return functional.cosine_similarity(x.float(), y.float(), dim=-1)


def split_markers(length: int, context: Context, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of a frame's patches and of its marker tokens, which are always kept."""
    index = torch.arange(length, device=device)
    if context.row_length is None:
        return index, index[:0]
    is_marker = index % context.row_length == context.row_length - 1
    return index[~is_marker], index[is_marker]


def gather(
    tokens_FND: Tensor, kept_patches: Sequence[Tensor | None], patches: Tensor, markers: Tensor
) -> Compressed:
    """Kept patches (None: all) and all markers of every frame, in order of position.

    Args:
        tokens_FND: the frames.
        kept_patches: per frame, indices into `patches`.
        patches: where the patches of a frame are.
        markers: where its markers are.
    """
    length = tokens_FND.shape[1]
    kept = []
    for frame, chosen in enumerate(kept_patches):
        here = patches if chosen is None else patches[chosen]
        kept.append(torch.cat((here, markers)).sort().values + frame * length)
    kept_M = torch.cat(kept) if kept else patches[:0]
    return Compressed(tokens_FND.flatten(0, 1)[kept_M], kept_M, tuple(map(len, kept)))


def between_anchors(token_budget: int, patches: int, every: int) -> tuple[int, ...]:
    """Tokens kept of each frame after an anchor, so that `every` frames keep `every * token_budget`.

    The anchor keeps all. What does not divide evenly goes to the later frames.

    Raises:
        SettingsError: the anchors alone are above the budget, or it is above what a frame has.
    """
    within(token_budget, patches)
    lowest = patches if every == 1 else -(-patches // every)
    why = f"one frame in {every} keeps all its {patches} tokens"
    one_of(token_budget, range(lowest, patches + 1), why)
    left = every * token_budget - patches
    if every == 1:
        return ()
    base, extra = divmod(left, every - 1)
    return tuple(base + (i >= every - 1 - extra) for i in range(every - 1))
