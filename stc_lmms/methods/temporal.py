"""What DyCoke and StreamDyCoke share: tokens compared with the same position of earlier frames.

Shapes: F frames, N tokens per frame, P patches (N without marker tokens), D width, K kept.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.errors import SettingsError
from stc_lmms.methods import budget
from stc_lmms.methods.base import Compressed, Context


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
    budget.within(token_budget, patches)
    left = every * token_budget - patches
    if every == 1:
        if left:
            raise SettingsError(
                f"token_budget={token_budget}: with every frame an anchor all {patches} stay; "
                f"the nearest that works is {patches}"
            )
        return ()
    if left < 0:
        raise SettingsError(
            f"token_budget={token_budget} is too low: one frame in {every} keeps all its {patches} tokens, "
            f"which alone is {patches / every:g} per frame; the nearest that works is {-(-patches // every)}"
        )
    base, extra = divmod(left, every - 1)
    return tuple(base + (i >= every - 1 - extra) for i in range(every - 1))
