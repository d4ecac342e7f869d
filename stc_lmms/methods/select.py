"""From selected token indices to a `Compressed`.

Shapes: F frames, N tokens per frame, K kept, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from stc_lmms.errors import StcError
from stc_lmms.lazy import Tensor, torch
from stc_lmms.methods.base import Compressed, Context
from stc_lmms.ops.rows import lowest
from stc_lmms.ops.transfer import to_device


def take(tokens_FND: Tensor, kept_FK: Tensor) -> Compressed:
    """The tokens `kept_FK` (indices in the frame, any order) of every frame, in position order."""
    frames, tokens, width = tokens_FND.shape
    offset_F1 = torch.arange(frames, device=kept_FK.device)[:, None] * tokens
    kept_M = (kept_FK.sort(dim=1).values + offset_F1).flatten()
    tokens_MD = tokens_FND.reshape(-1, width).index_select(0, kept_M)
    return Compressed(tokens_MD, kept_M, (kept_FK.shape[1],) * frames)


def take_each(tokens_FND: Tensor, kept: Sequence[Tensor]) -> Compressed:
    """The same with a different number of tokens in every frame."""
    parts = [index.sort().values + frame * tokens_FND.shape[1] for frame, index in enumerate(kept)]
    kept_M = torch.cat(parts) if parts else torch.arange(0, device=tokens_FND.device)
    tokens_MD = tokens_FND.flatten(0, 1).index_select(0, kept_M)
    return Compressed(tokens_MD, kept_M, tuple(map(len, parts)))


def token_grid(tokens_FND: Tensor, context: Context) -> tuple[int, int]:
    """Rows and columns of the tokens of a frame: the context's, else a square, else one row."""
    tokens = tokens_FND.shape[1]
    side = math.isqrt(tokens)
    grid = context.grid or ((side, side) if side * side == tokens else (1, tokens))
    if grid[0] * grid[1] != tokens:
        raise StcError(f"a grid of {grid[0]} x {grid[1]} does not hold {tokens} tokens")
    return grid


def uniform_positions(grid: tuple[int, int], count: int) -> list[int]:
    """`count` positions spread evenly over a grid, ascending.

    The aspect ratio decides how many rows are used; each gets an equal share, evenly spaced within it.
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
    """Indices [F,count] of the lowest scores; ties go to the `preferred` positions, then to lower ones."""
    rest = sorted(set(range(score_FN.shape[1])) - set(preferred))
    order = to_device([*preferred, *rest], score_FN.device)
    return order[lowest(score_FN[:, order], count)]
