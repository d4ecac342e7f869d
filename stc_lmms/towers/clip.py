"""CLIP: a class token in row 0, a LayerNorm before the first layer and none on the patch tokens after."""

from torch import Tensor, nn

from stc_lmms import compat
from stc_lmms.towers.base import Tower


class ClipTower(Tower):
    """Adapter of `CLIPVisionModel` (transformers 4.56 to 5.x)."""

    def __init__(self, model: nn.Module, feature_layer: int = -1):
        self.core = compat.vision_core(model)
        super().__init__(model, self.core.encoder.layers, feature_layer)

    @property
    def num_tokens(self) -> int:
        """Patches of one frame and the class token."""
        return (self.config.image_size // self.config.patch_size) ** 2 + 1

    def embed(self, pixels_FCHW: Tensor) -> Tensor:
        """Class token, patch embedding and positions through the pre-norm, [F,T,D]."""
        return self.core.pre_layrnorm(self.core.embeddings(pixels_FCHW))

    def finish(self, h_FTD: Tensor) -> Tensor:
        """Nothing: CLIP normalises only the pooled class token."""
        return h_FTD
