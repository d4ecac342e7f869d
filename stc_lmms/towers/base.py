"""The tower adapter: a vision transformer, split into the parts that in-tower methods need.

A tower never changes the wrapped modules; it only calls them. A *frame* is a unit that attends only to
itself: an image for SigLIP or CLIP, a temporal slice for Qwen-VL. Every frame of a call has the same T
tokens.

Shapes: F frames, T tower tokens, D width, Q queries.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stc_lmms.errors import StcError


@dataclass(frozen=True, eq=False)
class Layout:
    """How the tokens of one frame are arranged; the same for all frames of a call.

    Attributes:
        key: calls with equal keys have tokens at the same positions, so they can share a reference.
        tokens: T.
        group: number of consecutive rows that become one LLM token.
    """

    key: Hashable
    tokens: int
    group: int = 1


class Block(ABC):
    """One pre-LN encoder layer: `h + out(attend(qkv(norm1(h))))`, then `h + mlp(norm2(h))`.

    Every projection maps [..., D] to [..., D] and looks its module up when called, so that a layer that was
    wrapped or replaced later (LoRA, quantisation) takes effect.
    """

    layer: nn.Module
    heads: int
    scale: float

    @abstractmethod
    def norm1(self, h: Tensor) -> Tensor:
        """The norm before the attention."""

    @abstractmethod
    def norm2(self, h: Tensor) -> Tensor:
        """The norm before the MLP."""

    @abstractmethod
    def k(self, x: Tensor) -> Tensor:
        """Keys, before any rotation."""

    @abstractmethod
    def qv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, before any rotation, and values."""

    @abstractmethod
    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, as of `qv` and `k`."""

    @abstractmethod
    def out(self, x: Tensor) -> Tensor:
        """The output projection of the attention."""

    @abstractmethod
    def mlp(self, x: Tensor) -> Tensor:
        """The MLP, without norm and residual."""

    def split_heads(self, x_FQD: Tensor) -> Tensor:
        """[F,Q,D] to [F,heads,Q,D/heads], a view."""
        return x_FQD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(
        self, q_FQD: Tensor, k_FTD: Tensor, v_FTD: Tensor, layout: Layout, index_FQ: Tensor | None = None
    ) -> Tensor:
        """Attention of the tokens `index_FQ` (None: all, in order) over all T, heads merged: [F,Q,D]."""
        split = map(self.split_heads, (q_FQD, k_FTD, v_FTD))
        mixed = functional.scaled_dot_product_attention(*split, scale=self.scale)
        return mixed.transpose(1, 2).flatten(2)

    def dense(self, h_FTD: Tensor, layout: Layout) -> Tensor:
        """The complete layer."""
        h_FTD = h_FTD + self.out(self.attend(*self.qkv(self.norm1(h_FTD)), layout))
        return h_FTD + self.mlp(self.norm2(h_FTD))


class Tower(ABC):
    """A stock vision transformer seen as `embed`, then `blocks`, then `finish`.

    Attributes:
        blocks: the layers up to the feature; later ones are never run.
        taps: indices of the blocks whose output the language model also reads (deepstack), in its order.

    Args:
        model: the transformers vision model, in eval mode.
        layers: its encoder layers as blocks.
        feature_layer: which hidden state is the feature, in transformers' numbering (-1: the output
            of the last layer, before any final norm).
    """

    taps: tuple[int, ...] = ()

    def __init__(self, model: nn.Module, layers: Sequence[Block], feature_layer: int = -1):
        depth = len(layers)
        if not -depth - 1 <= feature_layer <= depth:
            raise ValueError(f"vision_feature_layer={feature_layer} is out of range for {depth} layers")
        used = feature_layer if feature_layer >= 0 else depth + 1 + feature_layer
        self.model = model
        self.blocks = list(layers[:used])
        self.config = model.config

    @property
    def family(self) -> str:
        """The name transformers gives this kind of tower."""
        return self.config.model_type

    @property
    @abstractmethod
    def patch_weight(self) -> Tensor:
        """Weight of the patch embedding; the input must have its dtype and device."""

    @abstractmethod
    def embed(self, x: Any) -> tuple[Tensor, Layout]:
        """First hidden state [F,T,D], which the caller may overwrite, and the layout of its tokens.

        Raises:
            StcError: the input does not fit the tower; the message says what would.
        """

    @abstractmethod
    def finish(self, h_FTD: Tensor, layout: Layout) -> Tensor:
        """The operations of the stock model after its last layer."""

    def deepstack(self, taps: Sequence[Tensor], layout: Layout) -> tuple[Tensor, ...]:
        """Deepstack features from the hidden states after the blocks `taps`; none by default."""
        return ()

    @torch.no_grad()
    def encode(self, x: Any, taps: list[Tensor] | None = None) -> Tensor:
        """Dense features [F,T,D] in one batch; the hidden states after `self.taps` are appended to `taps`."""
        h_FTD, layout = self.embed(x)
        for depth, block in enumerate(self.blocks):
            h_FTD = block.dense(h_FTD, layout)
            if taps is not None and depth in self.taps:
                taps.append(h_FTD)
        return h_FTD

    def check_input(self, name: str, x: Tensor) -> None:
        """Raise `StcError` for a tensor of another dtype or on another device than the tower's weights."""
        weight = self.patch_weight
        if x.dtype != weight.dtype:
            hint = "; run the checkpoint's processor first" if not x.is_floating_point() else ""
            raise StcError(
                f"{name} are {_short(x.dtype)}, the {self.family} tower is {_short(weight.dtype)}: "
                f"convert them with .to({weight.dtype}){hint}"
            )
        if x.device != weight.device:
            raise StcError(
                f"{name} are on {x.device}, the {self.family} tower is on {weight.device}: move one of them"
            )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
