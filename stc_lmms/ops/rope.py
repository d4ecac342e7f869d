"""Rotary position embedding (RoFormer, arXiv 2104.09864), precise even far into a long stream.

Shapes: L tokens, H heads, d head width.
"""

from __future__ import annotations

from stc_lmms.lazy import Tensor, torch


def rotation(positions: Tensor, inv_freq: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine [L,d] of the angles at integer positions, int64 [L] or per frequency [L,d/2].

    A day of video has positions near 10^7, where the error of a float32 angle is up to one radian. So angles
    are float64 until their cosine is taken; the result is float32, or float64 for a float64 model.

    `inv_freq` [d/2] are the angles per position, `dtype` is that of the tensors to rotate.
    """
    angle = (positions[:, None] if positions.dim() == 1 else positions).double() * inv_freq.double()
    angle = torch.cat((angle, angle), dim=-1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return angle.cos().to(wide), angle.sin().to(wide)


def rotate(x_HLd: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Keys or queries at the positions of `cos_sin`; computed in its dtype, returned in that of `x`."""
    cos_Ld, sin_Ld = cos_sin
    x = x_HLd.to(cos_Ld.dtype)
    first, second = x.chunk(2, dim=-1)
    return (x * cos_Ld + torch.cat((-second, first), dim=-1) * sin_Ld).to(x_HLd.dtype)
