"""CLIP: a class token in row 0, a LayerNorm before the first layer and none on the patch tokens after."""

from torch import Tensor

from stc_lmms.towers.base import Layout
from stc_lmms.towers.image import ImageTower


class ClipTower(ImageTower):
    """Adapter of `CLIPVisionModel` (transformers 4.56 to 5.x)."""

    @property
    def num_tokens(self) -> int:
        """Patches of one frame and the class token."""
        return super().num_tokens + 1

    def _first_hidden(self, pixels_FCHW: Tensor, **how: bool) -> Tensor:
        return self.core.pre_layrnorm(self.core.embeddings(pixels_FCHW, **how))

    def finish(self, h_FTD: Tensor, layout: Layout | None = None) -> Tensor:
        """The identity: CLIP normalises only the pooled class token."""
        return h_FTD
