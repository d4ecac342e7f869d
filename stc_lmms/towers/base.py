"""The tower adapter: one vision transformer, opened up into the parts that in-tower methods need.

Shapes: F frames, T tower tokens, D width, Q queries.
A tower never changes the wrapped modules; it only calls them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stc_lmms import compat


class Block:
    """One pre-LN encoder layer with separate q, k, v projections (SigLIP and CLIP layouts).

    Every projection maps [..., D] to [..., D]; `attend` is full bidirectional attention.
    """

    def __init__(self, layer: nn.Module):
        self.layer = layer
        attention = layer.self_attn
        self.heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.norm1, self.norm2, self.mlp = layer.layer_norm1, layer.layer_norm2, layer.mlp
        self.q, self.k, self.v, self.out = (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.out_proj,
        )

    def attend(self, q_FQD: Tensor, k_FTD: Tensor, v_FTD: Tensor) -> Tensor:
        """Multi-head attention of Q queries over T keys and values, heads merged: [F,Q,D]."""
        split = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q_FQD, k_FTD, v_FTD)]
        mixed = functional.scaled_dot_product_attention(*split, scale=self.scale)
        return mixed.transpose(1, 2).flatten(2)

    def dense(self, h_FTD: Tensor) -> Tensor:
        """The stock layer."""
        return compat.run_encoder_layer(self.layer, h_FTD)


class Tower:
    """A stock vision transformer seen as `embed`, then `blocks`, then `finish`.

    Args:
        model: the transformers vision model (in eval mode).
        layers: its encoder layers, in order.
        feature_layer: which hidden state is the feature, in transformers' numbering (-1: the output
            of the last layer, before any final norm). Layers beyond it are never run.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], feature_layer: int = -1):
        depth = len(layers)
        if not -depth - 1 <= feature_layer <= depth:
            raise ValueError(f"vision_feature_layer={feature_layer} is out of range for {depth} layers")
        used = feature_layer if feature_layer >= 0 else depth + 1 + feature_layer
        self.model = model
        self.blocks = [Block(layer) for layer in layers[:used]]
        self.config = model.config

    @property
    def num_tokens(self) -> int:
        """Tower tokens per frame (T), the class token included where there is one."""
        raise NotImplementedError

    def embed(self, pixels_FCHW: Tensor) -> Tensor:
        """Pixel values [F,3,H,W] to the first hidden state [F,T,D]."""
        raise NotImplementedError

    def finish(self, h_FTD: Tensor) -> Tensor:
        """What the stock model does after its last layer to give `last_hidden_state`."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, pixels_FCHW: Tensor) -> Tensor:
        """Dense features [F,T,D]: the stock modules, all frames in one batch."""
        h_FTD = self.embed(pixels_FCHW)
        for block in self.blocks:
            h_FTD = block.dense(h_FTD)
        return h_FTD
