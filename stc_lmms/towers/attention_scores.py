"""Attention received in the last layer, for token methods, at the cost of one product.

The tower runs with fused attention, which gives no weights. For the last layer used, the weights are made
once more from its input, one frame at a time, and reduced at once.

Shapes: F frames, T tower tokens, D width, H heads, E head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stc_lmms.ops.wide import wide
from stc_lmms.towers.base import Block, Tower


class Received(NamedTuple):
    """Attention received, mean over heads and queries (sum 1, float32 or wider), and mean keys, unscaled."""

    attention_FT: Tensor
    keys_FTE: Tensor


def received(q_FHTE: Tensor, k_FHTE: Tensor, scale: float) -> Received:
    """Attention received and mean keys from queries and keys; weights [H,T,T] live one frame at a time."""
    pairs = zip(q_FHTE, k_FHTE, strict=True)
    rows = [wide(q @ k.mT).mul_(scale).softmax(dim=-1).mean(dim=(0, 1)) for q, k in pairs]
    return Received(torch.stack(rows), k_FHTE.mean(dim=1))


def received_in(block: Block, h_FTD: Tensor) -> Received:
    """The same in a layer without rotary positions, from its input."""
    q, k, _ = block.qkv(block.norm1(h_FTD))
    return received(block.split_heads(q), block.split_heads(k), block.scale)


@torch.no_grad()
def encode_with_last_input(tower: Tower, pixels_FCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Dense features [F,T,D], as `tower.encode` gives them, and the input of the last layer."""
    h_FTD, layout = tower.embed(pixels_FCHW)
    for block in tower.blocks[:-1]:
        h_FTD = block.dense(h_FTD, layout)
    return tower.blocks[-1].dense(h_FTD, layout), h_FTD
