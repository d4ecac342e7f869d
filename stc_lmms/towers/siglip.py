"""SigLIP: no class token, position embedding inside the embeddings, LayerNorm after the last layer."""

from torch import Tensor, nn

from stc_lmms import compat
from stc_lmms.towers.base import Tower


class SiglipTower(Tower):
    """Adapter of `SiglipVisionModel` (transformers 4.56 to 5.x)."""

    def __init__(self, model: nn.Module, feature_layer: int = -1):
        self.core = compat.vision_core(model)
        super().__init__(model, self.core.encoder.layers, feature_layer)

    @property
    def num_tokens(self) -> int:
        """Patches of one frame."""
        return (self.config.image_size // self.config.patch_size) ** 2

    def embed(self, pixels_FCHW: Tensor) -> Tensor:
        """Patch embedding plus positions, [F,T,D]."""
        return self.core.embeddings(pixels_FCHW)

    def finish(self, h_FTD: Tensor) -> Tensor:
        """`post_layernorm`."""
        return self.core.post_layernorm(h_FTD)
