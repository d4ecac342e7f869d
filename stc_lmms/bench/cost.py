"""Cost model: multiply-accumulates (MAC) from the shapes alone; one MAC is two FLOPs.

Counts matrix products: projections, the two attention products, MLPs, patch embedding, projector, head.
Norms, scores, gathers, activations and pooling are left out. Source: arithmetic of the method; agrees with
the paper's own bound.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TowerShape:
    """A vision transformer: `tokens` per frame of `width`, MLPs of `mlp`, patches of `patch` pixels."""

    layers: int
    tokens: int
    width: int
    mlp: int
    patch: int

    @property
    def weights(self) -> int:
        """Parameters that the matrix products read."""
        block = 4 * self.width**2 + 2 * self.width * self.mlp
        return self.layers * block + patch_embed_macs(1, self.width, self.patch)


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

    @property
    def token_macs(self) -> int:
        """Per token, without attention products and head; also the parameters of the layers."""
        attention = 2 * self.width * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.width * self.mlp)

    @property
    def head_macs(self) -> int:
        """Of one output token; also the parameters of the head."""
        return self.width * self.vocab

    @property
    def kv_per_token(self) -> int:
        """Elements of keys and values that one token leaves in the cache."""
        return self.layers * 2 * self.kv_heads * self.head_dim


def dense_block_macs(tokens: int, width: int, mlp: int) -> int:
    """One dense pre-LN block: 4 T d^2 + 2 T^2 d + 2 T d m."""
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * mlp


def selective_block_macs(tokens: int, width: int, mlp: int, selected: int) -> int:
    """One selective block, keys for all tokens, the rest for k: T d^2 + 3 k d^2 + 2 k T d + 2 k d m."""
    projections = (tokens + 3 * selected) * width**2
    return projections + 2 * selected * tokens * width + 2 * selected * width * mlp


def selective_over_dense(tokens: int, width: int, mlp: int, selected: int) -> float:
    """Cost of a selective frame relative to a dense one."""
    return selective_block_macs(tokens, width, mlp, selected) / dense_block_macs(tokens, width, mlp)


def saving(tokens: int, width: int, mlp: int, selected: int, interval: int) -> float:
    """Fraction of tower work saved on an endless stream when every `interval`-th frame is dense."""
    return (1 - 1 / interval) * (1 - selective_over_dense(tokens, width, mlp, selected))


def patch_embed_macs(tokens: int, width: int, patch: int) -> int:
    """The strided convolution that makes tokens from RGB pixels."""
    return tokens * width * 3 * patch**2


def tower_macs(shape: TowerShape, dense: int, selective: int = 0, selected: int = 0) -> int:
    """A whole tower over `dense` frames and `selective` ones that recompute `selected` tokens each."""
    sizes = shape.tokens, shape.width, shape.mlp
    blocks = dense * dense_block_macs(*sizes) + selective * selective_block_macs(*sizes, selected)
    embed = (dense + selective) * patch_embed_macs(shape.tokens, shape.width, shape.patch)
    return shape.layers * blocks + embed


def projector_macs(tokens: int, vision_width: int, text_width: int) -> int:
    """The two-layer projector on `tokens` tower tokens (it comes before the pooling)."""
    return tokens * (vision_width * text_width + text_width**2)


def prefill_macs(shape: DecoderShape, new: int, past: int = 0) -> int:
    """`new` tokens behind `past` cached ones; causal, so a token attends to itself and all before it."""
    pairs = new * past + new * (new + 1) // 2
    return new * shape.token_macs + shape.layers * 2 * pairs * shape.heads * shape.head_dim
