"""Attention in parts: over some of the keys at a time, with what is needed to merge the parts exactly.

A query's attention over keys A and B is the mean of its attention over A and over B, weighted by the sums
of their exponentials. So every part is one unmasked or causal call, which fast kernels support, whereas a
sliding window with sinks would need a mask as large as the scores. The kernels are those of
`scaled_dot_product_attention`, called directly because they also return the log of the sums.

Shapes: H query heads, G key heads (H is a multiple of G), L queries, S keys, d head width.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stc_lmms.lazy import Tensor, torch
from stc_lmms.ops.wide import wide

logger = logging.getLogger(__name__)

KeyValue = tuple[Tensor, Tensor]
Kernel = Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Part:
    """Attention over some of the keys.

    Attributes:
        out_HLd: weighted mean of the values of those keys; zero if a query sees none of them.
        lse_HL: log of the sum of exponentials of their scores, float32 or wider; -inf for none.
    """

    out_HLd: Tensor
    lse_HL: Tensor

    @staticmethod
    def join(parts: Sequence[Part]) -> Part:
        """The attention of consecutive queries."""
        return Part(torch.cat([p.out_HLd for p in parts], 1), torch.cat([p.lse_HL for p in parts], 1))


def attend(q_HLd: Tensor, k_GSd: Tensor, v_GSd: Tensor, scale: float, *, causal: bool = False) -> Part:
    """All S >= 1 keys, or with `causal` (S = L) each query only the keys up to its own index."""
    groups, length = k_GSd.shape[0], q_HLd.shape[1]
    run, _ = kernel(q_HLd.device.type, q_HLd.dtype)
    if causal:
        repeats = q_HLd.shape[0] // groups
        k_GSd, v_GSd = (x.repeat_interleave(repeats, dim=0) for x in (k_GSd, v_GSd))
        return Part(*run(q_HLd, k_GSd, v_GSd, scale, True))
    # Query heads that share a key head are just more queries: no copy of the keys.
    out, lse = run(q_HLd.reshape(groups, -1, q_HLd.shape[-1]), k_GSd, v_GSd, scale, False)
    return Part(out.reshape(-1, length, out.shape[-1]), lse.reshape(-1, length))


def attend_masked(q_HLd: Tensor, k_GSd: Tensor, v_GSd: Tensor, scale: float, mask_LS: Tensor) -> Part:
    """A few keys with any mask (True is visible); materialises all scores."""
    groups = k_GSd.shape[0]
    score_GRLS = wide(q_HLd).unflatten(0, (groups, -1)) @ wide(k_GSd)[:, None].mT * scale
    score_GRLS = score_GRLS.masked_fill(~mask_LS, -torch.inf)
    lse_GRL = score_GRLS.logsumexp(-1)
    # If nothing is visible, lse is -inf; subtracting 0 instead gives exp(-inf) = 0, not NaN.
    weight_GRLS = (score_GRLS - lse_GRL.masked_fill(lse_GRL == -torch.inf, 0)[..., None]).exp()
    out_GRLd = weight_GRLS @ wide(v_GSd)[:, None]
    return Part(out_GRLd.flatten(0, 1).to(q_HLd.dtype), lse_GRL.flatten(0, 1))


def combine(parts: Sequence[Part]) -> Part:
    """Attention over the keys of all parts; every query must see a key in at least one of them."""
    if len(parts) == 1:
        return parts[0]
    lse_HL = functools.reduce(torch.logaddexp, (part.lse_HL for part in parts))
    out = sum(wide(p.out_HLd) * (p.lse_HL - lse_HL).exp()[..., None] for p in parts)
    return Part(out.to(parts[0].out_HLd.dtype), lse_HL)


def windowed(q_HLd: Tensor, past: KeyValue, new: KeyValue, scale: float, window: int | None = None) -> Part:
    """Causal attention of L new tokens over P >= 0 past ones directly before them, and themselves.

    With `window`, a query sees itself and the `window - 1` tokens before it.
    """
    length = q_HLd.shape[1]
    if window is None or length <= window:
        return combine(_window_parts(q_HLd, past, new, scale, window))
    k, v = (torch.cat(pair, dim=1) for pair in zip(past, new, strict=True))
    offset, out = past[0].shape[1], []
    for start in range(0, length, window):
        q = q_HLd[:, start : start + window]
        here, end = offset + start, offset + start + q.shape[1]
        pieces = _window_parts(q, (k[:, :here], v[:, :here]), (k[:, here:end], v[:, here:end]), scale, window)
        out.append(combine(pieces))
    return Part.join(out)


def _window_parts(
    q_HLd: Tensor, past: KeyValue, new: KeyValue, scale: float, window: int | None
) -> list[Part]:
    """At most three parts for L <= window: new tokens, past tokens seen by all, and by some, of them."""
    length, have = q_HLd.shape[1], past[0].shape[1]
    parts = [attend(q_HLd, *new, scale, causal=True)]
    # With w = window, query r sees the last w-1-r past tokens, so all queries see the last w-L of them.
    common = have if window is None else min(have, window - length)
    if common:
        parts.append(attend(q_HLd, *(x[:, have - common :] for x in past), scale))
    partial = 0 if window is None else min(have, window - 1) - common
    if partial:
        parts.append(_fading(q_HLd, *(x[:, have - common - partial : have - common] for x in past), scale))
    return parts


def _fading(q_HLd: Tensor, k_GSd: Tensor, v_GSd: Tensor, scale: float) -> Part:
    """Keys that leave the window one by one: query r of L sees the last min(S, L-1-r) of S <= L-1 keys.

    In reverse order this is causal: the second-last query sees the last key, the one before it two, ...
    """
    length, keys = q_HLd.shape[1], k_GSd.shape[1]
    q, k, v = q_HLd[:, :-1].flip(1), k_GSd.flip(1), v_GSd.flip(1)
    pieces = [attend(q[:, :keys], k, v, scale, causal=True)]
    if length - 1 > keys:
        pieces.append(attend(q[:, keys:], k, v, scale))
    part = Part.join(pieces)
    out = q_HLd.new_zeros(*q_HLd.shape[:2], v_GSd.shape[-1])
    lse = part.lse_HL.new_full(q_HLd.shape[:2], -torch.inf)
    out[:, :-1], lse[:, :-1] = part.out_HLd.flip(1), part.lse_HL.flip(1)
    return Part(out, lse)


def _reference(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    score = wide(q) @ wide(k).mT * scale
    if causal:
        score = score.masked_fill(torch.ones_like(score[0], dtype=torch.bool).triu(1), -torch.inf)
    lse = score.logsumexp(-1)
    return ((score - lse[..., None]).exp() @ wide(v)).to(q.dtype), lse


def _cpu(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = op(q[None], k[None], v[None], 0.0, causal, scale=scale)
    return out[0], lse[0]


def _cuda_flash(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    op = torch.ops.aten._scaled_dot_product_flash_attention
    out, lse, *_ = op(q[None], k[None], v[None], 0.0, causal, False, scale=scale)
    return out[0], lse[0]


def _cuda_efficient(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    op = torch.ops.aten._scaled_dot_product_efficient_attention
    out, lse, *_ = op(q[None], k[None], v[None], None, True, 0.0, causal, scale=scale)
    return out[0], lse[0, :, : q.shape[1]]  # this kernel pads the queries


_FAST: dict[str, tuple[Kernel, ...]] = {"cpu": (_cpu,), "cuda": (_cuda_flash, _cuda_efficient)}


@functools.cache
def kernel(device_type: str, dtype: torch.dtype) -> tuple[Kernel, str]:
    """The kernel for a device and dtype, and its name, with the reason if it is the reference."""
    reasons = []
    for candidate in _FAST.get(device_type, ()):
        name = candidate.__name__.removeprefix("_")
        try:
            error = _deviation(candidate, device_type, dtype)
        except (RuntimeError, AttributeError, TypeError) as problem:  # not built in, or not for this dtype
            reasons.append(f"{name}: {str(problem).splitlines()[0]}")
            continue
        if error <= 1e-5 if dtype.itemsize >= 4 else error <= 2e-2:
            return candidate, name
        reasons.append(f"{name}: off by {error:.1e}")
    why = "; ".join(reasons) or f"no fast kernel for {device_type}"
    logger.info("attention in parts runs the reference on %s %s (%s)", device_type, dtype, why)
    return _reference, f"reference ({why})"


def _deviation(candidate: Kernel, device_type: str, dtype: torch.dtype) -> float:
    """Largest difference to the reference on a small example, with and without causal mask."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 80, 64, generator=generator).to(device_type, dtype)
    errors = []
    for causal, keys in ((True, 80), (False, 37)):
        got = candidate(q, k[:, :keys], v[:, :keys], 0.125, causal)
        expected = _reference(q, k[:, :keys], v[:, :keys], 0.125, causal)
        errors += [(a.double() - b.double()).abs().max().item() for a, b in zip(got, expected, strict=True)]
    return max(errors) if all(e == e for e in errors) else float("inf")
