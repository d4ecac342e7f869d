"""Control: keep the tokens under which the pixels changed most, the simplest temporal rule."""

from __future__ import annotations

from dataclasses import dataclass

from stc_lmms.errors import StcError
from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.methods.base import Compressed, Context, Need, State, TokenMethod
from stc_lmms.methods.budget import Budgeted
from stc_lmms.methods.select import lowest_preferring, take, take_each, token_grid, uniform_positions
from stc_lmms.methods.spec import MethodSpec


@dataclass(frozen=True)
class LastPixels(State):
    """Pixel values [1,C,H,W] of the newest frame; None before the first one."""

    pixels: Tensor | None = None


@dataclass(frozen=True)
class PixelDiff(Budgeted, TokenMethod[LastPixels]):
    """The tokens whose pixels changed most since the previous frame.

    The change of a token is the mean absolute difference of the normalised pixel values in its cell of the
    grid. Ties (a still scene, and the first frame of a stream) are broken by evenly spaced positions.
    """

    state_class = LastPixels

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"pixels"})

    def compress(
        self, tokens_FND: Tensor, context: Context, state: LastPixels
    ) -> tuple[Compressed, LastPixels]:
        if context.pixels_FCHW is None:
            raise StcError(
                "pixel_diff needs the pixel values of the frames, which this model does not provide"
            )
        self.check(tokens_FND.shape[1])
        grid, pixels = token_grid(tokens_FND, context), context.pixels_FCHW
        if len(pixels) == 0:
            return take_each(tokens_FND, []), state
        before = pixels[:1] if state.pixels is None else state.pixels
        change = (pixels - torch.cat((before, pixels[:-1]))).float().abs().mean(dim=1, keepdim=True)
        change_FN = functional.adaptive_avg_pool2d(change, grid).flatten(1)
        even = uniform_positions(grid, self.token_budget)
        kept_FK = lowest_preferring(-change_FN, self.token_budget, even)
        return take(tokens_FND, kept_FK), LastPixels(pixels[-1:].clone())


SPECS = (MethodSpec("pixel_diff", "control: tokens whose pixels changed most", token=PixelDiff),)
