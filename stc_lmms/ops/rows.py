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
    if len(index_FK) == 1:
        return index_FK[0]
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


def similarity(new: Tensor, old: Tensor, metric: str = "cosine") -> Tensor:
    """Similarity of the rows of two broadcastable tensors [..., D], in float32 or wider: [...].

    Args:
        new: rows.
        old: rows to compare with.
        metric: `cosine`, `dot`, or the negative distance `l1` or `l2`. High means alike.
    """
    wide = torch.promote_types(new.dtype, torch.float32)
    new, old = new.to(wide), old.to(wide)
    if metric in ("l1", "l2"):
        return -torch.linalg.vector_norm(new - old, ord=int(metric[1]), dim=-1)
    dot = (new * old).sum(-1)
    if metric == "dot":
        return dot
    # Norms before broadcasting: a reference has one, however many frames are compared with it.
    lengths = (torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-8) for x in (new, old))
    for length in lengths:
        dot = dot / length
    return dot
