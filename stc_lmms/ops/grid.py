"""Tokens as a map: resizing, joining neighbours.

Shapes: F frames, T = rows * columns tokens in raster order, D width.
"""

from __future__ import annotations

import math

from stc_lmms.lazy import Tensor, functional


def halved(grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns after `halve`: half of each, rounded up."""
    return math.ceil(grid[0] / 2), math.ceil(grid[1] / 2)


def halve(x_FTD: Tensor, grid: tuple[int, int]) -> Tensor:
    """The map at half the resolution, [F,ceil(rows/2)*ceil(columns/2),D].

    Bilinear interpolation without aligned corners: what LLaVA-OneVision does to the frames of a video.
    """
    map_FDHW = x_FTD.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
    small = functional.interpolate(map_FDHW, size=halved(grid), mode="bilinear")
    return small.flatten(2).transpose(1, 2)


def join_2x2(x_FTD: Tensor, grid: tuple[int, int]) -> Tensor:
    """Join every 2x2 patches, in raster order, into one token: [F,T/4,4D]."""
    rows, columns = grid
    map_FrHcWD = x_FTD.unflatten(1, (rows // 2, 2, columns // 2, 2))
    return map_FrHcWD.transpose(2, 3).flatten(3).flatten(1, 2)


def average(x_FTD: Tensor, grid: tuple[int, int], cells: int) -> Tensor:
    """Means over `cells` equal squares of the map, in raster order: [F,cells,D]."""
    side = math.isqrt(cells)
    map_FDHW = x_FTD.unflatten(1, grid).permute(0, 3, 1, 2)
    size = (grid[0] // side, grid[1] // side)
    return functional.avg_pool2d(map_FDHW, size).flatten(2).transpose(1, 2)
