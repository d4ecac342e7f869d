"""Network shapes that the cost model needs. Imports neither torch nor transformers."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from stc_lmms.errors import SettingsError
from stc_lmms.models.public_sizes import LLAVA_ONEVISION, SO400M
from stc_lmms.suggest import unknown


@dataclass(frozen=True)
class TowerShape:
    """A vision transformer: `tokens` per frame of `width`, MLPs of `mlp`, patches of `patch` pixels."""

    layers: int
    tokens: int
    width: int
    mlp: int
    patch: int

    @classmethod
    def of(cls, config: Any, layers: int, tokens: int) -> "TowerShape":
        """Shape of the first `layers` layers of a tower whose config has the fields of SigLIP and CLIP."""
        return cls(layers, tokens, config.hidden_size, config.intermediate_size, config.patch_size)

    @property
    def weights(self) -> int:
        """Parameters of the matrix products."""
        block = 4 * self.width**2 + 2 * self.width * self.mlp
        return self.layers * block + self.width * 3 * self.patch**2


@dataclass(frozen=True)
class DecoderShape:
    """A decoder with grouped-query attention and a gated MLP (Qwen2, Llama)."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int

    @classmethod
    def of(cls, config: Any) -> "DecoderShape":
        """Shape of a decoder whose config has the fields of Qwen2."""
        width, heads = config.hidden_size, config.num_attention_heads
        attention = heads, config.num_key_value_heads, width // heads
        return cls(config.num_hidden_layers, width, *attention, config.intermediate_size, config.vocab_size)

    @property
    def token_macs(self) -> int:
        """MACs per token without attention products and head; equals the parameters of the layers."""
        attention = 2 * self.width * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.width * self.mlp)

    @property
    def head_macs(self) -> int:
        """MACs of the head per output token; equals its parameters."""
        return self.width * self.vocab

    @property
    def kv_per_token(self) -> int:
        """Elements of keys and values that one token adds to the KV cache."""
        return self.layers * 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class ModelShape:
    """A video LLM; `itemsize` is the bytes of one element of its weights and activations."""

    tower: TowerShape
    decoder: DecoderShape
    tokens_per_frame: int
    itemsize: int


def public_shape(size: str) -> ModelShape:
    """Shape of a public LLaVA-OneVision checkpoint, `0.5b` or `7b`, in 16 bit.

    Raises:
        SettingsError: there is no such size.
    """
    if size not in LLAVA_ONEVISION:
        raise SettingsError(unknown("model size", size, LLAVA_ONEVISION))
    vision = SimpleNamespace(**SO400M)
    side = vision.image_size // vision.patch_size
    tower = TowerShape.of(vision, vision.num_hidden_layers, side**2)
    decoder = DecoderShape.of(SimpleNamespace(**LLAVA_ONEVISION[size]))
    return ModelShape(tower, decoder, math.ceil(side / 2) ** 2, 2)
