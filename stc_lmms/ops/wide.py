"""The precision of sums, norms and exponentials: float32, or float64 for float64 inputs."""

from __future__ import annotations

from stc_lmms.lazy import Tensor, torch


def wide(x: Tensor) -> Tensor:
    """`x` in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
