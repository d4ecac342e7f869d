"""The functions of `rows.py` as fused Triton kernels, for a GPU.

A selective frame is small, so the number of kernels determines the time: PyTorch needs about twenty to
compare the keys of a frame and pick from them, this file two. All additions are in float32 and rounded once,
so `take_add` and `overlay_` reproduce PyTorch bit for bit; only the sums of `cosine` run in another order. No
launch depends on values, so everything can be captured in a CUDA graph.

Shapes: F frames, T tokens, K picked tokens, D width, R references that serve E frames each.
"""

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stc_lmms.ops.rows import SCORE_GRID

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MOST_TOKENS = 8192  # per frame, in `lowest`: one program holds all scores of a frame

_TOKENS, _WIDTH = tl.constexpr(4), tl.constexpr(256)  # a program's tile: 16 bytes of bfloat16 per thread
_GRID = tl.constexpr(SCORE_GRID)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_ROUND = tl.constexpr(1.5 * 2**23)  # adding and subtracting it rounds half to even, like torch.round
_HALVINGS = tl.constexpr((2 * SCORE_GRID).bit_length())


def cosine(new_RETD: Tensor, old_RETD: Tensor) -> Tensor:
    """Cosine of the rows of two tensors of one shape (any strides but the last), in float32: [R,E,T]."""
    references, each, tokens, width = new_RETD.shape
    score_RET = new_RETD.new_empty(new_RETD.shape[:3], dtype=torch.float32)
    with _device(new_RETD):
        _cosine[_cells(tokens), references * each](
            new_RETD, *new_RETD.stride()[:3], old_RETD, *old_RETD.stride()[:3], score_RET, each, tokens, width
        )
    return score_RET


def lowest(score_FT: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices [F,count] (int64, ascending) of the lowest scores, and each token's rank in them (int32) or -1.

    Scores are float32 and contiguous, T is at most `MOST_TOKENS`.
    """
    frames, tokens = score_FT.shape
    index_FK = torch.empty(frames, count, dtype=torch.int64, device=score_FT.device)
    rank_FT = torch.empty(frames, tokens, dtype=torch.int32, device=score_FT.device)
    with _device(score_FT):
        _lowest[(frames,)](score_FT, index_FK, rank_FT, count, tokens, triton.next_power_of_2(tokens))
    return index_FK, rank_FT


def take_add(x_FTD: Tensor, flat_FK: Tensor, more_FKD: Tensor) -> Tensor:
    """Picked rows of x plus `more` (both contiguous): [F,K,D]; `flat_FK` comes from `rows.flat_index`."""
    out_FKD = torch.empty_like(more_FKD)
    rows, width = len(flat_FK), x_FTD.shape[-1]
    with _device(x_FTD):
        _take_add[_cells(rows, width)](x_FTD, flat_FK, more_FKD, out_FKD, rows, width)
    return out_FKD


def overlay_(x_FTD: Tensor, old_RTD: Tensor, new_FKD: Tensor, rank_FT: Tensor, add: bool) -> Tensor:
    """Replace picked tokens by rows of `new`, and all others by rows of `old` (or add those, with `add`).

    In place on x. All but `old` must be contiguous; each reference serves F/R frames in order.
    """
    frames, tokens, width = x_FTD.shape
    each, count = frames // len(old_RTD), new_FKD.shape[1]
    with _device(x_FTD):
        _overlay[(*_cells(tokens, width), frames)](
            x_FTD, old_RTD, *old_RTD.stride()[:2], new_FKD, rank_FT, each, tokens, count, width, add
        )
    return x_FTD


def _cells(rows: int, width: int | None = None) -> Any:
    down = triton.cdiv(rows, _TOKENS.value)
    return down if width is None else (down, triton.cdiv(width, _WIDTH.value))


def _device(x: Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@triton.jit
def _cosine(new, new_r, new_e, new_t, old, old_r, old_e, old_t, score, each, tokens, width: tl.constexpr):
    t = tl.program_id(0) * _TOKENS + tl.arange(0, _TOKENS)
    frame = tl.program_id(1).to(tl.int64)
    r, e = frame // each, frame % each
    new += r * new_r + e * new_e
    old += r * old_r + e * old_e
    inside = t < tokens
    dot = tl.zeros((_TOKENS, _WIDTH), tl.float32)
    new_square = tl.zeros((_TOKENS, _WIDTH), tl.float32)
    old_square = tl.zeros((_TOKENS, _WIDTH), tl.float32)
    for start in range(0, width, _WIDTH):
        d = start + tl.arange(0, _WIDTH)
        mask = inside[:, None] & (d < width)[None, :]
        a = tl.load(new + t[:, None] * new_t + d[None, :], mask, 0.0).to(tl.float32)
        b = tl.load(old + t[:, None] * old_t + d[None, :], mask, 0.0).to(tl.float32)
        dot += a * b
        new_square += a * a
        old_square += b * b
    new_length = tl.maximum(tl.sqrt_rn(tl.sum(new_square, 1)), 1e-8)
    old_length = tl.maximum(tl.sqrt_rn(tl.sum(old_square, 1)), 1e-8)
    cosine = tl.div_rn(tl.div_rn(tl.sum(dot, 1), new_length), old_length)
    tl.store(score + frame * tokens + t, cosine, inside)


@triton.jit
def _lowest(score, index, rank, count, tokens, BLOCK: tl.constexpr):
    frame = tl.program_id(0).to(tl.int64)
    t = tl.arange(0, BLOCK)
    inside = t < tokens
    x = tl.load(score + frame * tokens + t, inside, 0.0)
    scale = tl.maximum(tl.max(tl.abs(x), 0), _TINY)
    on_grid = (tl.div_rn(x, scale) * _GRID + _ROUND) - _ROUND
    # Clamped, so that a NaN among the scores cannot lead to indices outside the frame.
    key = tl.minimum(tl.maximum(on_grid.to(tl.int32), -_GRID), _GRID)
    key = tl.where(inside, key, _GRID + 1)
    low = tl.full((), -_GRID, tl.int32)
    high = tl.full((), _GRID, tl.int32)
    for _ in range(_HALVINGS):  # bisects until both are the highest picked key
        middle = (low + high) >> 1
        enough = tl.sum((key <= middle).to(tl.int32), 0) >= count
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    below = key < low
    equal = key == low
    missing = count - tl.sum(below.to(tl.int32), 0)
    picked = below | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= missing))
    at = tl.cumsum(picked.to(tl.int32), 0) - 1
    tl.store(index + frame * count + at, t.to(tl.int64), picked)
    tl.store(rank + frame * tokens + t, tl.where(picked, at, -1), inside)


@triton.jit
def _take_add(x, flat, more, out, rows, width: tl.constexpr):
    k = tl.program_id(0) * _TOKENS + tl.arange(0, _TOKENS)
    d = tl.program_id(1) * _WIDTH + tl.arange(0, _WIDTH)
    row = tl.load(flat + k, k < rows, 0)
    mask = (k < rows)[:, None] & (d < width)[None, :]
    here = k.to(tl.int64)[:, None] * width + d[None, :]
    taken = tl.load(x + row[:, None] * width + d[None, :], mask).to(tl.float32)
    added = taken + tl.load(more + here, mask).to(tl.float32)
    tl.store(out + here, added.to(out.dtype.element_ty), mask)


@triton.jit
def _overlay(x, old, old_r, old_t, new, rank, each, tokens, count, width: tl.constexpr, ADD: tl.constexpr):
    t = tl.program_id(0) * _TOKENS + tl.arange(0, _TOKENS)
    d = tl.program_id(1) * _WIDTH + tl.arange(0, _WIDTH)
    frame = tl.program_id(2).to(tl.int64)
    at = tl.load(rank + frame * tokens + t, t < tokens, -1)
    mask = (t < tokens)[:, None] & (d < width)[None, :]
    picked = (at >= 0)[:, None]
    old += (frame // each) * old_r
    here = (frame * tokens + t)[:, None] * width + d[None, :]
    fresh = tl.load(new + (frame * count + at)[:, None] * width + d[None, :], mask & picked, 0.0)
    other = tl.load(old + t[:, None] * old_t + d[None, :], mask & (at < 0)[:, None], 0.0)
    if ADD:
        kept = tl.load(x + here, mask & (at < 0)[:, None], 0.0)
        other = (kept.to(tl.float32) + other.to(tl.float32)).to(x.dtype.element_ty)
    tl.store(x + here, tl.where(picked, fresh, other), mask)
