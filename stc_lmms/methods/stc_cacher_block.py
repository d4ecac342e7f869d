"""One block of STC-Cacher: dense frames, and selective frames that reuse references.

Shapes: F frames (R dense, S selective), T tower tokens, K selected tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from stc_lmms.lazy import Tensor, torch
from stc_lmms.methods.stc_cacher_roles import Group
from stc_lmms.ops import rows
from stc_lmms.ops.rows import put_rows_, similarity, take_add, take_rows

if TYPE_CHECKING:
    from stc_lmms.towers import Block, Layout


class Reference(NamedTuple):
    """What one block keeps of its dense frames, [R,T,D] each.

    Attributes:
        k: keys before any rotation; None in a block that never scores.
        v: values.
        update: what the block added to its input, attention and MLP together.
    """

    k: Tensor | None
    v: Tensor
    update: Tensor


class Choice(NamedTuple):
    """Tokens to recompute: indices, row indices [S*K] of [S*T,D], and the rank as in `rows.pick`."""

    index_SK: Tensor
    rows: Tensor
    rank_ST: Tensor | None


class Reuse:
    """The references of a call's selective frames in one block: the stream's, and the call's own (fresh)."""

    def __init__(self, groups: list[Group], stored: Reference, fresh: Reference | None):
        self.groups, self.stored, self.fresh = groups, stored, fresh

    def _of(self, name: str) -> Iterator[tuple[Group, Tensor]]:
        """Each group with one tensor [references,1,T,D] of its references."""
        for group in self.groups:
            source = getattr(self.stored if group.stored else self.fresh, name)
            yield group, source[group.first : group.last].unsqueeze(1)

    def similarity(self, k_STD: Tensor, metric: str) -> Tensor:
        """Similarity [S,T] of fresh keys to those of their reference; low means changed."""
        parts = [similarity(group.of(k_STD), k, metric).flatten(0, 1) for group, k in self._of("k")]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def values(self, v_SKD: Tensor, choice: Choice) -> Tensor:
        """New values for the chosen tokens, the reference's for the others: [S,T,D]."""
        shape = (len(choice.index_SK), *self.stored.v.shape[1:])
        return self._overlay_(self.stored.v.new_empty(shape), "v", v_SKD, choice, add=False)

    def update_(self, h_STD: Tensor, new_SKD: Tensor, choice: Choice) -> Tensor:
        """Replace the chosen tokens; add the reference's update to all others."""
        return self._overlay_(h_STD, "update", new_SKD, choice, add=True)

    def _overlay_(self, x_STD: Tensor, name: str, new_SKD: Tensor, choice: Choice, add: bool) -> Tensor:
        rank_ST = choice.rank_ST
        fused = rows.kernels(x_STD.device.type, x_STD.dtype).fused if rank_ST is not None else None
        new_SKD = new_SKD.contiguous()  # values of a wrapped projection are a third of its rows
        for group, old in self._of(name):
            if fused is not None:
                part = slice(group.start, group.stop)
                fused.overlay_(x_STD[part], old[:, 0], new_SKD[part], rank_ST[part], add)
            elif add:
                group.of(x_STD).add_(old)
            else:
                group.of(x_STD).copy_(old.expand(-1, group.frames_each, -1, -1))
        return x_STD if fused is not None else put_rows_(x_STD, choice.rows, new_SKD)


def dense_block(block: Block, h_RTD: Tensor, layout: Layout) -> tuple[Tensor, Reference]:
    """One block of dense frames: its output, and what selective frames may reuse of each."""
    q, k, v = block.qkv(block.norm1(h_RTD))
    update = block.out(block.attend(q, k, v, layout))
    h_RTD = h_RTD + update
    mlp = block.mlp(block.norm2(h_RTD))
    return h_RTD.add_(mlp), Reference(k, v, update.add_(mlp))


def selective_block(
    block: Block, layout: Layout, h_STD: Tensor, x_STD: Tensor, k_STD: Tensor, reuse: Reuse, choice: Choice
) -> Tensor:
    """One block of selective frames, in place on `h_STD`; `x_STD` is its normed input, `k_STD` its keys."""
    q, v = block.qv(take_rows(x_STD, choice.rows, len(h_STD)))
    attention = block.attend(q, k_STD, reuse.values(v, choice), layout, choice.index_SK)
    new = take_add(h_STD, choice.rows, block.out(attention))
    new = new.add_(block.mlp(block.norm2(new)))
    return reuse.update_(h_STD, new, choice)
