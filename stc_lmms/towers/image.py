"""What SigLIP and CLIP share: pixel values of one fixed size, separate q, k, v, full attention."""

from abc import abstractmethod

from torch import Tensor, nn

from stc_lmms import compat
from stc_lmms.errors import StcError
from stc_lmms.towers.base import Block, Layout, Tower


class ImageBlock(Block):
    """Encoder layer of SigLIP and CLIP (transformers 4.56 to 5.x)."""

    def __init__(self, layer: nn.Module):
        self.layer = layer
        self.heads: int = layer.self_attn.num_heads
        self.scale: float = layer.self_attn.scale

    def norm1(self, h: Tensor) -> Tensor:
        return self.layer.layer_norm1(h)

    def norm2(self, h: Tensor) -> Tensor:
        return self.layer.layer_norm2(h)

    def k(self, x: Tensor) -> Tensor:
        return self.layer.self_attn.k_proj(x)

    def qv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.self_attn.q_proj(x), self.layer.self_attn.v_proj(x)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three calls: one joined weight would be a second copy of all of them."""
        q, v = self.qv(x)
        return q, self.k(x), v

    def out(self, x: Tensor) -> Tensor:
        return self.layer.self_attn.out_proj(x)

    def mlp(self, x: Tensor) -> Tensor:
        return self.layer.mlp(x)

    def dense(self, h_FTD: Tensor, layout: Layout) -> Tensor:
        return compat.run_encoder_layer(self.layer, h_FTD)


class ImageTower(Tower):
    """A tower whose input is pixel values [F,3,S,S], with S fixed by its position table."""

    def __init__(self, model: nn.Module, feature_layer: int = -1):
        self.core = compat.vision_core(model)
        layers = [ImageBlock(layer) for layer in self.core.encoder.layers]
        super().__init__(model, layers, feature_layer)
        self._layout = Layout(key=(self.num_tokens,), tokens=self.num_tokens)

    @property
    def patch_weight(self) -> Tensor:
        return self.core.embeddings.patch_embedding.weight

    @property
    def num_tokens(self) -> int:
        """Tower tokens per frame (T)."""
        return (self.config.image_size // self.config.patch_size) ** 2

    def embed(self, pixels_FCHW: Tensor) -> tuple[Tensor, Layout]:
        size = self.config.image_size
        if not isinstance(pixels_FCHW, Tensor) or tuple(pixels_FCHW.shape[1:]) != (3, size, size):
            got = list(getattr(pixels_FCHW, "shape", ())) or type(pixels_FCHW).__name__
            raise StcError(
                f"a {self.family} tower of this checkpoint needs pixel values [frames, 3, {size}, {size}], "
                f"not {got}: its resolution is fixed, use the checkpoint's own processor"
            )
        self.check_input("pixel values", pixels_FCHW)
        # The convolution leaves its tokens transposed, and every residual sum would keep those strides.
        return self._first_hidden(pixels_FCHW).contiguous(), self._layout

    def embed_small(self, pixels_FCHW: Tensor) -> tuple[Tensor, Layout]:
        """The same for [F,3,H,W], multiples of the patch size; transformers interpolates the positions."""
        self.check_input("pixel values", pixels_FCHW)
        h_FTD = self._first_hidden(pixels_FCHW, interpolate_pos_encoding=True).contiguous()
        return h_FTD, Layout(key=tuple(pixels_FCHW.shape[2:]), tokens=h_FTD.shape[1])

    @abstractmethod
    def _first_hidden(self, pixels_FCHW: Tensor, **how: bool) -> Tensor:
        """Patch and position embeddings, with the stock module's own options."""
