"""SigLIP: no class token, position embedding inside the embeddings, LayerNorm after the last layer."""

from torch import Tensor

from stc_lmms.towers.base import Layout
from stc_lmms.towers.image import ImageTower


class SiglipTower(ImageTower):
    """Adapter of `SiglipVisionModel` (transformers 4.56 to 5.x)."""

    def _first_hidden(self, pixels_FCHW: Tensor, **how: bool) -> Tensor:
        return self.core.embeddings(pixels_FCHW, **how)

    def finish(self, h_FTD: Tensor, layout: Layout | None = None) -> Tensor:
        """`post_layernorm`, to give `last_hidden_state`."""
        return self.core.post_layernorm(h_FTD)
