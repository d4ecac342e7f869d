"""From chosen positions to a `Compressed`: row markers, frame offsets, position order.

Shapes: F frames, L tokens in a frame's raw stream, N patch tokens among them, K kept, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stc_lmms.errors import StcError
from stc_lmms.lazy import Tensor, torch
from stc_lmms.methods.base import Compressed, Context
from stc_lmms.ops.rows import lowest
from stc_lmms.ops.transfer import to_device


@dataclass(frozen=True)
class TokenLayout:
    """Where a frame's patches and row markers stand in its raw stream.

    Attributes:
        patches_N: positions of the patch tokens, ascending.
        markers: positions of the row markers, ascending; always kept, behind the kept patches (that is
            where the authors of STC and VidCom2 put them).
        grid: rows and columns of the patches.
    """

    patches_N: Tensor
    markers: Tensor
    grid: tuple[int, int]

    def patches(self, tokens_FLD: Tensor) -> Tensor:
        """The patch tokens [F,N,D]; no copy where there are no markers."""
        return tokens_FLD if len(self.markers) == 0 else tokens_FLD[:, self.patches_N]

    def take(self, tokens_FLD: Tensor, kept_FK: Tensor) -> Compressed:
        """The patches `kept_FK` (numbers among the N, any order) of every frame, in position order."""
        frames, length, width = tokens_FLD.shape
        kept = self.patches_N[kept_FK.sort(dim=1).values]
        kept = torch.cat((kept, self.markers.expand(frames, -1)), dim=1)
        kept_M = (kept + torch.arange(frames, device=kept.device)[:, None] * length).flatten()
        tokens_MD = tokens_FLD.reshape(-1, width).index_select(0, kept_M)
        return Compressed(tokens_MD, kept_M, (kept.shape[1],) * frames)

    def take_each(self, tokens_FLD: Tensor, kept: Sequence[Tensor]) -> Compressed:
        """The same with another number of patches in every frame.

        A frame that keeps no patch keeps no marker either: it has no rows left to mark.
        """
        length = tokens_FLD.shape[1]
        parts = [
            torch.cat((self.patches_N[index.sort().values], self.markers[: None if len(index) else 0]))
            + frame * length
            for frame, index in enumerate(kept)
        ]
        kept_M = torch.cat(parts) if parts else self.patches_N[:0]
        tokens_MD = tokens_FLD.flatten(0, 1).index_select(0, kept_M)
        return Compressed(tokens_MD, kept_M, tuple(map(len, parts)))


def token_layout(tokens_FLD: Tensor, context: Context) -> TokenLayout:
    """Patches and markers of frames with this context.

    Raises:
        StcError: the grid of the context does not count the tokens.
    """
    length = tokens_FLD.shape[1]
    patches = torch.arange(length, device=tokens_FLD.device)
    markers = patches[:0]
    if context.row_length is not None:
        is_marker = patches % context.row_length == context.row_length - 1
        patches, markers = patches[~is_marker], patches[is_marker]
        grid = (len(markers), context.row_length - 1)
    elif context.grid is not None:
        grid = context.grid
    else:
        side = math.isqrt(length)
        grid = (side, side) if side * side == length else (1, length)
    if grid[0] * grid[1] != len(patches):
        raise StcError(f"a grid of {grid[0]} x {grid[1]} does not hold {len(patches)} tokens")
    return TokenLayout(patches, markers, grid)


def uniform_positions(grid: tuple[int, int], count: int) -> list[int]:
    """`count` positions spread evenly over a grid, ascending.

    As many rows as the aspect asks for, the count shared evenly among them, evenly spaced within each.
    """
    rows, columns = grid
    used = round(math.sqrt(count * rows / columns))
    used = min(max(used, -(-count // columns), 1), rows, count)
    positions = []
    for i in range(used):
        row = (2 * i + 1) * rows // (2 * used)
        here = (i + 1) * count // used - i * count // used
        positions += [row * columns + (2 * j + 1) * columns // (2 * here) for j in range(here)]
    return positions


def lowest_preferring(score_FN: Tensor, count: int, preferred: Sequence[int]) -> Tensor:
    """Indices [F,count] of the lowest scores; ties go to the `preferred` positions, then to the first."""
    rest = sorted(set(range(score_FN.shape[1])) - set(preferred))
    order = to_device([*preferred, *rest], score_FN.device)
    return order[lowest(score_FN[:, order], count)]
