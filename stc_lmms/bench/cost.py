"""Cost model: multiply-accumulates (MACs) from shapes alone; one MAC is two FLOPs.

Counts matrix products: projections, the two attention products, MLPs, patch embedding, projector, head.
Norms, scores, gathers, activations and pooling are left out. The results agree with the paper's own bound.
"""

from stc_lmms.bench.shapes import DecoderShape, TowerShape


def dense_block_macs(tokens: int, width: int, mlp: int) -> int:
    """One dense pre-LN block: 4 T d^2 + 2 T^2 d + 2 T d m."""
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * mlp


def selective_block_macs(tokens: int, width: int, mlp: int, selected: int) -> int:
    """One selective block (keys of all tokens, the rest of k): T d^2 + 3 k d^2 + 2 k T d + 2 k d m."""
    projections = (tokens + 3 * selected) * width**2
    return projections + 2 * selected * tokens * width + 2 * selected * width * mlp


def selective_over_dense(tokens: int, width: int, mlp: int, selected: int) -> float:
    """Cost of a selective frame relative to a dense one."""
    return selective_block_macs(tokens, width, mlp, selected) / dense_block_macs(tokens, width, mlp)


def saving(tokens: int, width: int, mlp: int, selected: int, interval: int) -> float:
    """Fraction of tower work saved on an endless stream with a reference frame every `interval` frames."""
    return (1 - 1 / interval) * (1 - selective_over_dense(tokens, width, mlp, selected))


def tower_macs(shape: TowerShape, dense: int, selective: int = 0, selected: int = 0) -> int:
    """A whole tower over `dense` frames and `selective` frames that recompute `selected` tokens each."""
    sizes = shape.tokens, shape.width, shape.mlp
    blocks = dense * dense_block_macs(*sizes) + selective * selective_block_macs(*sizes, selected)
    embed = (dense + selective) * shape.tokens * shape.width * 3 * shape.patch**2
    return shape.layers * blocks + embed


def projector_macs(tokens: int, vision_width: int, text_width: int) -> int:
    """The two-layer projector on `tokens` tower tokens (before pooling)."""
    return tokens * (vision_width * text_width + text_width**2)


def prefill_macs(shape: DecoderShape, new: int, past: int = 0) -> int:
    """`new` tokens after `past` cached ones, with causal attention."""
    pairs = new * past + new * (new + 1) // 2
    return new * shape.token_macs + shape.layers * 2 * pairs * shape.heads * shape.head_dim
