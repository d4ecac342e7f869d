"""Cost model of STC-Cacher: multiply-accumulates per block, from the shapes alone.

Counts the projections, the two attention products and the MLP; norms, scores, gathers, patch embedding and
projector are left out. Source: arithmetic of the method; agrees with the paper's own bound.
"""


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
    """Fraction of tower work saved when every `interval`-th frame is dense."""
    return (1 - 1 / interval) * (1 - selective_over_dense(tokens, width, mlp, selected))
