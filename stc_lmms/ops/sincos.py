"""Sine and cosine position tables, in numpy float32: torch's own sines differ in the last bits.

Shapes: T time steps, H rows and W columns of patches, C width, D entries of one code.
"""

from __future__ import annotations

import numpy as np

from stc_lmms.lazy import Tensor, torch

_BASE = 10000


def codes(width: int, positions: np.ndarray) -> np.ndarray:
    """Sines, then cosines, of every position at `width / 2` frequencies: float32 [len(positions), width]."""
    frequencies = 1.0 / _BASE ** (np.arange(width // 2, dtype=np.float32) / (width / 2))
    angles = np.outer(positions.astype(np.float32), frequencies)
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1).astype(np.float32)


def split_width(width: int) -> tuple[int, int]:
    """Split C channels into those for time (a quarter) and those for the position in the frame (the rest).

    Raises:
        ValueError: C is not a multiple of 16.
    """
    if width % 16:
        raise ValueError(f"position tables need a width that is a multiple of 16, not {width}")
    return width // 4, width - width // 4


def spatial_table(grid: tuple[int, int], width: int) -> Tensor:
    """Float32 [H*W,C]: zeros in the channels for time, then the column's code and the row's code."""
    when, where = split_width(width)
    rows, columns = np.indices(grid)
    parts = [codes(where // 2, axis.ravel()) for axis in (columns, rows)]
    return torch.from_numpy(np.concatenate((np.zeros((rows.size, when), np.float32), *parts), axis=1))


def temporal_table(moments: int, width: int) -> Tensor:
    """Float32 [T,C]: the time step's code, then zeros in the channels for the position in the frame."""
    when, where = split_width(width)
    code = codes(when, np.arange(moments))
    return torch.from_numpy(np.concatenate((code, np.zeros((moments, where), np.float32)), axis=1))
