"""Control: every frame at a lower resolution, and so with fewer tokens.

Frames are resized before the tower (antialiased), the position table is interpolated as in transformers, and
the pooling is the usual one: 224 x 224 instead of 384 x 384 pixels are 16 x 16 patches and 8 x 8 LLM tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor, functional, no_grad
from stc_lmms.methods import budget
from stc_lmms.methods.base import TowerMethod, TowerState
from stc_lmms.methods.budget import PerFrame
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.ops.grid import halved

if TYPE_CHECKING:
    from stc_lmms.towers import Tower


@dataclass(frozen=True)
class Downsample(PerFrame, TowerMethod):
    """Lower resolution.

    Args:
        token_budget: LLM tokens per frame: rows times columns of a grid of about the tower's aspect ratio.
    """

    def check(self, group: int) -> None:
        """Refuse towers with variable resolution (Qwen-VL): their processor sets it."""
        if group > 1:
            raise SettingsError("downsample is for towers of one fixed resolution")

    def check_budget(self, grid: tuple[int, int], layers: int) -> None:
        """Refuse a number of tokens that does not form such a grid."""
        rows, columns = halved(grid)
        why = f"a frame becomes a smaller grid of about {rows} x {columns}"
        budget.one_of(self.token_budget, _grids(grid), why)

    def output_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the patches of a small frame."""
        rows, columns = _grids(grid)[self.token_budget]
        return min(2 * rows, grid[0]), min(2 * columns, grid[1])

    @no_grad
    def encode(
        self, tower: Tower, x: Tensor, state: TowerState, *, taps: list[Tensor] | None = None
    ) -> Tensor:
        """Features [F,T,D] of the small frames."""
        patch = tower.config.patch_size
        side = tower.config.image_size // patch
        rows, columns = self.output_grid((side, side))
        small = functional.interpolate(
            x.float(), size=(rows * patch, columns * patch), mode="bilinear", antialias=True
        )
        h, layout = tower.embed_small(small.to(x.dtype))
        for block in tower.blocks:
            h = block.dense(h, layout)
        state.count(len(h), tower.num_tokens, layout.tokens)
        return h


def _grids(grid: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Token grids of about the aspect ratio of `halved(grid)`, by their number of tokens."""
    rows, columns = halved(grid)
    grids = [(abs(r * columns - c * rows), r, c) for r in range(1, rows + 1) for c in range(1, columns + 1)]
    found: dict[int, tuple[int, int]] = {}
    for skew, r, c in sorted(grids):
        if skew <= max(rows, columns):  # within one row or column of the aspect ratio
            found.setdefault(r * c, (r, c))  # the closest comes first
    return found


SPECS = (MethodSpec("downsample", "control: every frame at a lower resolution", tower=Downsample),)
