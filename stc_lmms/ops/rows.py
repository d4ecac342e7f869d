"""Token rows: similarity, selecting the lowest, gathering and replacing.

On a GPU, fused kernels (`rows_triton.py`) are used if they agree with the functions here, which is checked
once per device and dtype; `kernels` returns the choice with the reason.

Shapes: F frames, T tokens, K picked tokens, D width, R references that serve E frames each.
"""

from __future__ import annotations

import functools
import importlib
import logging
from types import ModuleType
from typing import NamedTuple

from stc_lmms.lazy import Tensor, torch
from stc_lmms.ops.wide import wide

logger = logging.getLogger(__name__)

# Scores closer than this fraction of the largest one differ by float32 rounding only. Rounding them to a grid
# makes the choice among equal tokens (a still background) independent of how frames are batched.
SCORE_GRID = 2**20


def flat_index(index_FK: Tensor, tokens: int) -> Tensor:
    """Row indices [F*K] of the picked tokens in the flattened [F*T, D] tensor."""
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


def take_add(x_FTD: Tensor, flat_FK: Tensor, more_FKD: Tensor) -> Tensor:
    """Picked rows plus `more`, [F,K,D]; x must be contiguous."""
    if (fused := kernels(x_FTD.device.type, x_FTD.dtype).fused) is not None:
        return fused.take_add(x_FTD, flat_FK, more_FKD.contiguous())
    return take_rows(x_FTD, flat_FK, len(x_FTD)).add_(more_FKD)


def gather_rows(x_FTD: Tensor, index_FK: Tensor) -> Tensor:
    """The rows [F,K,D] with these indices of each frame."""
    return x_FTD.gather(1, index_FK[..., None].expand(-1, -1, x_FTD.shape[-1]))


def lowest(score_FT: Tensor, count: int) -> Tensor:
    """Indices [F,count] (int64, in no particular order) of the lowest scores of each frame.

    Ties, up to float32 rounding, go to the lower token index.
    """
    return pick(score_FT, count)[0]


def pick(score_FT: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
    """The result of `lowest`; with fused kernels also the rank [F,T] of each token in it, else -1."""
    fused = kernels(score_FT.device.type, score_FT.dtype).fused if score_FT.dtype == torch.float32 else None
    if fused is not None and score_FT.shape[1] <= fused.MOST_TOKENS:
        return fused.lowest(score_FT.contiguous(), count)
    return _lowest(score_FT, count), None


def _lowest(score_FT: Tensor, count: int) -> Tensor:
    scale_F1 = score_FT.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    grid_FT = (score_FT / scale_F1 * SCORE_GRID).round().long()
    tokens = score_FT.shape[1]
    key_FT = grid_FT * tokens + torch.arange(tokens, device=score_FT.device)
    return key_FT.topk(count, dim=1, largest=False, sorted=False).indices


def cosine(new: Tensor, old: Tensor) -> Tensor:
    """Cosine of the rows of two broadcastable tensors [...,T,D], in float32 or wider: [...,T]."""
    fused = kernels(new.device.type, new.dtype).fused
    if fused is not None and new.dim() in (3, 4):
        new, old = torch.broadcast_tensors(new, old)
        return fused.cosine(new, old) if new.dim() == 4 else fused.cosine(new[None], old[None])[0]
    return _cosine(new, old)


def similarity(new: Tensor, old: Tensor, metric: str) -> Tensor:
    """Similarity of rows as in `cosine`: `cosine`, `dot`, or the negative distance `l1` or `l2`."""
    if metric == "cosine":
        return cosine(new, old)
    new, old = wide(new), wide(old)
    if metric == "dot":
        return (new * old).sum(-1)
    return -torch.linalg.vector_norm(new - old, ord=int(metric[1]), dim=-1)


def _cosine(new: Tensor, old: Tensor) -> Tensor:
    new, old = wide(new), wide(old)
    dot = (new * old).sum(-1)
    # Norms before broadcasting: a reference needs only one, however many frames are compared with it.
    for x in (new, old):
        dot = dot / torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-8)
    return dot


class Kernels(NamedTuple):
    """The module of fused kernels, or None, and a name: with None, the reason."""

    fused: ModuleType | None
    name: str


FUSED = {"cuda": "stc_lmms.ops.rows_triton"}


@functools.cache
def kernels(device_type: str, dtype: torch.dtype) -> Kernels:
    """The fused kernels if they work on this device and agree with the functions here, else those."""
    if device_type not in FUSED:
        return Kernels(None, f"torch (no fused kernels for {device_type})")
    try:
        fused = importlib.import_module(FUSED[device_type])
        why = _deviation(fused, device_type, dtype)
    except Exception as error:  # no Triton, no compiler, unsupported device, ...
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if not why:
        return Kernels(fused, "triton")
    logger.warning("%s tokens on %s are selected without fused kernels: %s", dtype, device_type, why)
    return Kernels(None, f"torch ({why})")


def _deviation(fused: ModuleType, device_type: str, dtype: torch.dtype) -> str:
    """How the fused kernels differ from these functions on a small example; empty if they agree."""
    if dtype not in fused.DTYPES:
        return f"not for {dtype}"
    generator = torch.Generator().manual_seed(0)
    x, old, more = (torch.randn(4, 600, 24, generator=generator).to(device_type, dtype) for _ in range(3))
    old, count = old[:2], 9
    expected = _cosine(x.unflatten(0, (2, 2)), old[:, None])
    score = fused.cosine(x.unflatten(0, (2, 2)), old[:, None].expand(-1, 2, -1, -1))
    if not torch.allclose(score, expected, rtol=0, atol=1e-5):
        return "cosine differs"
    index, rank = fused.lowest(expected.flatten(0, 1), count)
    if not torch.equal(index, _lowest(expected.flatten(0, 1), count).sort(-1).values):
        return "lowest differs"
    rows, new = flat_index(index, x.shape[1]), more[:, :count].contiguous()
    if not torch.equal(fused.take_add(x, rows, new), take_rows(x, rows, len(x)).add_(new)):
        return "take_add differs"
    for add in (False, True):
        repeated = old.repeat_interleave(2, 0)
        expected = put_rows_(x + repeated if add else repeated.clone(), rows, new)
        if not torch.equal(fused.overlay_(x.clone(), old, new, rank, add), expected):
            return "overlay_ differs"
    return ""
