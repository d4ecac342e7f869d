"""Similarity of tokens to a centre, as VidCom2 and STC-Pruner measure it."""

from __future__ import annotations

from stc_lmms.lazy import Tensor, torch

# Twice the variance of a kernel is 2 * s: s = 2^-3 .. 2^1 (VidCom2, section 3.2; STC's code has the same).
BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


def gaussian_similarity(x: Tensor, centre: Tensor) -> Tensor:
    """Sum over the bandwidths s of exp(-|x - c|^2 / 2s), in (0, 5], of rows [..., C]: [...]."""
    distance = (x - centre).square().sum(-1)
    return sum(torch.exp(distance / (-2 * s)) for s in BANDWIDTHS)
