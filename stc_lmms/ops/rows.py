"""Picking and replacing token rows, and the order that decides which ones.

Shapes: F frames, T tokens, K picked tokens, D width, R reference frames.
"""

import torch
from torch import Tensor

# Scores closer than this fraction of the largest one differ by float32 rounding only. Putting them on
# a grid makes the choice among equal tokens (a still background) the same however frames are batched.
SCORE_GRID = 2**20


def flat_index(index_FK: Tensor, tokens: int) -> Tensor:
    """Row numbers [F*K] of the picked tokens in the flattened [F*T, D] tensor."""
    offset_F1 = torch.arange(index_FK.shape[0], device=index_FK.device)[:, None] * tokens
    return (index_FK + offset_F1).flatten()


def take_rows(x_FTD: Tensor, flat_FK: Tensor, frames: int) -> Tensor:
    """Picked rows [F,K,D]; `flat_FK` comes from `flat_index`."""
    return x_FTD.flatten(0, 1).index_select(0, flat_FK).unflatten(0, (frames, -1))


def put_rows_(x_FTD: Tensor, flat_FK: Tensor, rows_FKD: Tensor) -> Tensor:
    """Replace the picked rows in place (x must be contiguous) and return x."""
    x_FTD.view(-1, x_FTD.shape[-1]).index_copy_(0, flat_FK, rows_FKD.flatten(0, 1))
    return x_FTD


def lowest(score_FT: Tensor, count: int) -> Tensor:
    """Indices [F,count] (int64, in no particular order) of the lowest scores of each frame.

    Ties, up to float32 rounding, go to the lower token index.
    """
    scale_F1 = score_FT.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    grid_FT = (score_FT / scale_F1 * SCORE_GRID).round().long()
    tokens = score_FT.shape[1]
    key_FT = grid_FT * tokens + torch.arange(tokens, device=score_FT.device)
    return key_FT.topk(count, dim=1, largest=False, sorted=False).indices
