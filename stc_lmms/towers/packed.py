"""Packed patches of Qwen-VL towers, and the layout of the tokens of one temporal slice.

Shapes: P packed rows, C values per row, F temporal slices, T = h*w tokens per slice, G = T/merge^2 merge
groups, E head width, W windows. Grids are in patches: (t, h, w).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lmms.errors import StcError
from stc_lmms.ops import rope
from stc_lmms.towers.base import Layout


@dataclass(frozen=True, eq=False)
class Patches:
    """Input of a Qwen-VL tower, as created by the processor: consecutive temporal slices of one stream.

    Attributes:
        rows_PC: one row per patch, slice after slice, merge group after merge group.
        grid_thw: (slices, height, width) of each piece, with equal height and width; or a tensor [n,3].

    Raises:
        StcError: the grid has another form, or does not match the number of rows.
    """

    rows_PC: Tensor
    grid_thw: Sequence[Sequence[int]] | Tensor

    def __post_init__(self):
        grid = self.grid_thw.tolist() if isinstance(self.grid_thw, Tensor) else self.grid_thw
        try:
            grid = tuple((int(t), int(h), int(w)) for t, h, w in grid)
        except (TypeError, ValueError):
            raise StcError(f"grid_thw={grid!r} is not a list of (slices, height, width)") from None
        if not grid or min(min(piece) for piece in grid) < 1:
            raise StcError(f"grid_thw={grid!r} must have one piece or more, all sizes positive")
        if len({piece[1:] for piece in grid}) > 1:
            raise StcError(f"grid_thw={grid!r} mixes sizes; encode the slices of each size in their own call")
        rows = sum(t * h * w for t, h, w in grid)
        if self.rows_PC.dim() != 2 or len(self.rows_PC) != rows:
            raise StcError(
                f"grid_thw={grid!r} means {rows} patches, but the rows are {list(self.rows_PC.shape)}"
            )
        object.__setattr__(self, "grid_thw", grid)

    def __len__(self) -> int:
        """F."""
        return sum(t for t, _, _ in self.grid_thw)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a slice, in patches."""
        return self.grid_thw[0][1:]

    def part(self, start: int, stop: int) -> "Patches":
        """The slices start..stop-1."""
        height, width = self.size
        tokens = height * width
        return Patches(self.rows_PC[start * tokens : stop * tokens], [(stop - start, height, width)])


@dataclass(frozen=True, eq=False)
class Windows:
    """Attention windows of one slice, whose tokens are sorted by window.

    Attributes:
        of_T: each token's window.
        same: the common size of all windows, or 0.
        by_size: for each size that occurs, the rows [W*size] of its windows.
    """

    of_T: Tensor
    same: int
    by_size: tuple[tuple[int, Tensor], ...]


@dataclass(frozen=True, eq=False)
class GridLayout(Layout):
    """Layout of one temporal slice, with tensors that depend only on it.

    Attributes:
        cos_TE, sin_TE: of the rotary angles, in float32 or wider.
        windows: None if every block attends to the entire slice.
        order_G, back_G: the merge groups in the tower's order, and its inverse (None: raster order).
        table_rows_T4, table_weights_T4: rows of a learned position table to interpolate between (None: no
            such table), and their weights.
    """

    cos_TE: Tensor | None = None
    sin_TE: Tensor | None = None
    windows: Windows | None = None
    order_G: Tensor | None = None
    back_G: Tensor | None = None
    table_rows_T4: Tensor | None = None
    table_weights_T4: Tensor | None = None


def build_layout(
    size: tuple[int, int],
    merge: int,
    inv_freq: Tensor,
    *,
    dtype: torch.dtype,
    window: int | None = None,
    table_side: int | None = None,
) -> GridLayout:
    """Layout of a slice; computed on the CPU, then moved to the device of `inv_freq` once.

    Args:
        size: (height, width) in patches, multiples of `merge`.
        merge: side of a merge group.
        inv_freq: [E/4].
        dtype: of the tower.
        window: side of an attention window in merge groups, if there are windows.
        table_side: side of the square table of learned positions, if there is one.
    """
    height, width = size
    device = inv_freq.device
    row_T, column_T = _positions(height, width, merge)
    windows = order_G = None
    if window is not None:
        order_G, windows = _windows(height // merge, width // merge, window, merge**2, device)
        order_T = (order_G[:, None] * merge**2 + torch.arange(merge**2)).flatten()
        row_T, column_T = row_T[order_T], column_T[order_T]
    wide = torch.promote_types(dtype, torch.float32)
    frequency = inv_freq.cpu().to(wide)
    angle_TE = torch.cat((row_T[:, None] * frequency, column_T[:, None] * frequency), dim=1).repeat(1, 2)
    rows = weights = None
    if table_side is not None:
        rows, weights = _table_taps(row_T, column_T, size, table_side)
    return GridLayout(
        key=size,
        tokens=height * width,
        group=merge**2,
        cos_TE=angle_TE.cos().to(device),
        sin_TE=angle_TE.sin().to(device),
        windows=windows,
        order_G=_to(order_G, device),
        back_G=None if order_G is None else order_G.argsort().to(device),
        table_rows_T4=_to(rows, device),
        table_weights_T4=_to(weights, device),
    )


def rotate(x_FQHE: Tensor, layout: GridLayout, index_FQ: Tensor | None = None) -> Tensor:
    """Rotary embedding of all tokens, or of the tokens `index_FQ`; computed in float32 or wider."""
    cos_sin = (x if index_FQ is None else x[index_FQ] for x in (layout.cos_TE, layout.sin_TE))
    return rope.rotate(x_FQHE, tuple(x.unsqueeze(-2) for x in cos_sin))


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)


def _positions(height: int, width: int, merge: int) -> tuple[Tensor, Tensor]:
    """Row and column of every patch, in the processor's order: merge groups in raster order."""
    shape = (height // merge, width // merge, merge, merge)
    row = torch.arange(height).view(height // merge, 1, merge, 1).expand(shape)
    column = torch.arange(width).view(1, width // merge, 1, merge).expand(shape)
    return row.flatten(), column.flatten()


def _windows(height: int, width: int, side: int, group: int, device: torch.device) -> tuple[Tensor, Windows]:
    """Order of the merge groups (on the CPU), sorted by window, and the windows.

    Windows tile a slice from its top left corner; those at the right and lower edge may be smaller.
    """
    across = -(-width // side)
    row_G, column_G = torch.arange(height * width) // width, torch.arange(height * width) % width
    window_G = row_G // side * across + column_G // side
    order_G = window_G.argsort(stable=True)
    window_T = window_G[order_G].repeat_interleave(group)
    sizes = window_T.bincount()
    size_T = sizes[window_T]
    distinct = sizes.unique().tolist()
    return order_G, Windows(
        of_T=window_T.to(device),
        same=distinct[0] if len(distinct) == 1 else 0,
        by_size=tuple((n, (size_T == n).nonzero().flatten().to(device)) for n in distinct),
    )


def _table_taps(row_T: Tensor, column_T: Tensor, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """Bilinear interpolation of a [side, side] table at each patch, with aligned corners."""
    axes = []
    for position, length in ((row_T, size[0]), (column_T, size[1])):
        at = position.float() * (side - 1) / max(length - 1, 1)
        low = at.floor().long().clamp(max=side - 1)
        share = at - low
        axes.append(((low, 1 - share), ((low + 1).clamp(max=side - 1), share)))
    pairs = [(up, across) for up in axes[0] for across in axes[1]]
    rows = torch.stack([y * side + x for (y, _), (x, _) in pairs], dim=1)
    return rows, torch.stack([a * b for (_, a), (_, b) in pairs], dim=1)
