"""One block of STC-Cacher: dense frames, and selective frames that reuse references.

Shapes: F frames (R dense, S selective), T tower tokens, K selected tokens, D width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from stc_lmms.methods.stc_cacher_plan import Group
from stc_lmms.ops.rows import put_rows_, similarity, take_rows
from stc_lmms.towers import Block, Layout


class Reference(NamedTuple):
    """What one block remembers of its dense frames, [R,T,D] each.

    Attributes:
        k: keys before any rotation; None in a block that never scores.
        v: values.
        update: what the block added to its input, attention and MLP together.
    """

    k: Tensor | None
    v: Tensor
    update: Tensor


class Choice(NamedTuple):
    """Tokens to recompute: as [S,K], as rows of [S*T], and which of them count (None: all)."""

    index_SK: Tensor
    rows: Tensor
    changed_SK1: Tensor | None


class Reuse:
    """The references of all selective frames of a call in one block, as views.

    Args:
        groups: which frames reuse which references.
        known: the reference that the stream had before the call.
        fresh: those of the call's dense frames, if any.
    """

    def __init__(self, groups: list[Group], known: Reference, fresh: Reference | None):
        self.groups, self.known, self.fresh = groups, known, fresh

    def _of(self, name: str) -> Iterator[tuple[Group, Tensor]]:
        """Each group with one tensor [references,1,T,D] of its references."""
        for group in self.groups:
            source = getattr(self.known if group.known else self.fresh, name)
            yield group, source[group.first : group.last].unsqueeze(1)

    def similarity(self, k_STD: Tensor, metric: str) -> Tensor:
        """Score [S,T] of fresh keys; low means changed."""
        parts = [similarity(group.of(k_STD), k, metric).flatten(0, 1) for group, k in self._of("k")]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def values(self, shape: torch.Size) -> Tensor:
        """A new tensor [S,T,D] of the references' values."""
        values_STD = self.known.v.new_empty(shape)
        for group, v in self._of("v"):
            group.of(values_STD).copy_(v.expand(-1, group.each, -1, -1))
        return values_STD

    def add_updates_(self, h_STD: Tensor) -> None:
        """Add to every token what the block added to it in its reference."""
        for group, update in self._of("update"):
            group.of(h_STD).add_(update)


def dense_block(block: Block, h_RTD: Tensor, layout: Layout) -> tuple[Tensor, Reference]:
    """One block of dense frames: its output, and what selective frames may reuse of each."""
    q, k, v = block.qkv(block.norm1(h_RTD))
    update = block.out(block.attend(q, k, v, layout))
    h_RTD = h_RTD + update
    mlp = block.mlp(block.norm2(h_RTD))
    return h_RTD.add_(mlp), Reference(k, v, update.add_(mlp))


def selective_block(
    block: Block,
    layout: Layout,
    h_STD: Tensor,
    x_STD: Tensor,
    k_STD: Tensor,
    reuse: Reuse,
    choice: Choice,
) -> Tensor:
    """One block of selective frames on `h_STD`, in place; `x_STD` is its first norm, `k_STD` its keys."""
    frames, index_SK, rows, changed = len(h_STD), *choice
    q, v = block.qv(take_rows(x_STD, rows, frames))
    values = reuse.values(h_STD.shape)
    if changed is not None:
        v = torch.where(changed, v, take_rows(values, rows, frames))
    put_rows_(values, rows, v)
    attention = block.out(block.attend(q, k_STD, values, layout, index_SK))
    new = take_rows(h_STD, rows, frames).add_(attention)
    new = new.add_(block.mlp(block.norm2(new)))
    reuse.add_updates_(h_STD)
    if changed is not None:
        new = torch.where(changed, new, take_rows(h_STD, rows, frames))
    return put_rows_(h_STD, rows, new)
