"""STC-Cacher: recompute only the vision tokens that changed since a reference frame.

Source: STC (arXiv 2512.00891), section on STC-Cacher, equations 1-6, and the authors' code. Every
`cache_interval` frames one reference frame is encoded densely; each block keeps its keys K, values V,
attention output A (after the output projection) and MLP output M. In a selective frame every block
computes fresh keys for all tokens, finds the `update_ratio` tokens least similar to K, and computes
queries, new values, attention rows and MLP rows for those only; all other rows take A and M.

Execution is *grouped*: the reference frames of a call form one batch, its selective frames another that
gathers from the reference of its group, block by block. This is the frame-by-frame definition in
another order, because a selective frame depends on nothing but its reference frame.

Deviations from the authors' code: state belongs to the stream, not to the layers; a stream cut into
several calls is not refreshed at every cut; ties are broken by position instead of by rounding noise.

Shapes: F frames (R dense, S selective), T tower tokens, K selected tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.errors import SettingsError
from stc_lmms.methods.base import TowerMethod, TowerState
from stc_lmms.ops.rows import flat_index, lowest, put_rows_, take_rows
from stc_lmms.towers import Block, Tower


class Reference(NamedTuple):
    """What one block remembers of its dense frames: four tensors [R,T,D]."""

    k: Tensor
    v: Tensor
    attention: Tensor
    mlp: Tensor

    def rows(self, index: Tensor) -> "Reference":
        """The given dense frames."""
        return Reference(*(x.index_select(0, index) for x in self))

    @staticmethod
    def join(parts: Sequence["Reference"]) -> "Reference":
        """Several references one after the other."""
        return parts[0] if len(parts) == 1 else Reference(*map(torch.cat, zip(*parts, strict=True)))


@dataclass
class CacherState(TowerState):
    """Reference of each block (leading dimension 1), or None before the first frame."""

    reference: list[Reference] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of K, V, A and M of all blocks."""
        return sum(x.nbytes for block in self.reference or () for x in block)


@dataclass
class Trace:
    """What `STCCacher.encode` did, block by block, for verification.

    Attributes:
        selective: positions of the selective frames among the frames of the call.
        indices: one [S,K] tensor per block.
        hidden: block inputs and the last output, [F,T,D] each.
    """

    selective: list[int] = field(default_factory=list)
    indices: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)


class _Plan(NamedTuple):
    """Roles of the frames of one call (positions within the call)."""

    dense: list[int]
    selective: list[int]
    refreshing: list[int]  # positions within `dense` that become a reference
    group: list[int]  # for each selective frame: 0 = the stream's reference, i = i-th of `refreshing`


@dataclass(frozen=True)
class STCCacher(TowerMethod):
    """STC-Cacher.

    Args:
        cache_interval: a reference frame every so many frames; 1 encodes every frame densely.
        update_ratio: fraction of tokens recomputed in a selective frame, in (0, 1].
        selection: `per_layer` selects anew in every block (the paper); `shared` selects in the first
            block and uses these tokens in all of them (newer official code).
        metric: similarity of fresh and reference keys; the lowest are recomputed.
        chunk_frames: frames that share one role. A refreshing chunk is dense throughout and its last
            frame becomes the reference. The authors' drivers use 1.

    Limits: attention weights are not available, so methods that read them cannot be combined.
    """

    cache_interval: int = 4
    update_ratio: float = 0.25
    selection: Literal["per_layer", "shared"] = "per_layer"
    metric: Literal["cosine", "dot", "l1", "l2"] = "cosine"
    chunk_frames: int = 1

    def __post_init__(self):
        """Check ranges."""
        if self.cache_interval < 1:
            raise SettingsError(f"cache_interval={self.cache_interval} must be at least 1")
        if not 0 < self.update_ratio <= 1:
            raise SettingsError(f"update_ratio={self.update_ratio} must be in (0, 1]")
        if self.chunk_frames < 1:
            raise SettingsError(f"chunk_frames={self.chunk_frames} must be at least 1")

    def open_state(self) -> CacherState:
        """Nothing seen yet."""
        return CacherState()

    def selected(self, tokens: int) -> int:
        """Tokens recomputed in a selective frame: k = max(1, floor(T * update_ratio))."""
        return max(1, int(tokens * self.update_ratio))

    @torch.no_grad()
    def encode(
        self, tower: Tower, pixels_FCHW: Tensor, state: CacherState, trace: Trace | None = None
    ) -> Tensor:
        """Features [F,T,D] of the next F frames; see `TowerMethod.encode`."""
        h_FTD = tower.embed(pixels_FCHW)
        frames, tokens = h_FTD.shape[:2]
        plan = self._plan(state.frames, frames)
        device = h_FTD.device
        dense, selective = (torch.tensor(x, device=device, dtype=torch.long) for x in plan[:2])
        h_dense, h_selective = h_FTD.index_select(0, dense), h_FTD.index_select(0, selective)
        use = _References(plan, state.reference, device)

        chosen = None
        for depth, block in enumerate(tower.blocks):
            if trace is not None:
                trace.hidden.append(_merge(plan, h_dense, h_selective))
            fresh = None
            if plan.dense:
                h_dense, fresh = _dense_block(block, h_dense)
            reference = use.advance(depth, fresh)
            if plan.selective:
                x = block.norm1(h_selective)
                k = block.k(x)
                if chosen is None or self.selection == "per_layer":
                    chosen = lowest(self._similarity(k, reference.k), self.selected(tokens))
                h_selective = _selective_block(block, h_selective, x, k, reference, chosen)
                if trace is not None:
                    trace.indices.append(chosen)

        out_FTD = _merge(plan, h_dense, h_selective)
        if trace is not None:
            trace.selective = plan.selective
            trace.hidden.append(out_FTD)
        state.reference = use.last
        state.frames += frames
        state.tokens_seen += frames * tokens
        state.tokens_recomputed += len(plan.dense) * tokens + len(plan.selective) * self.selected(tokens)
        return out_FTD

    def _plan(self, start: int, frames: int) -> _Plan:
        plan = _Plan([], [], [], [])
        for position in range(frames):
            chunk, within = divmod(start + position, self.chunk_frames)
            if chunk % self.cache_interval:
                plan.selective.append(position)
                plan.group.append(len(plan.refreshing))
            else:
                if within == self.chunk_frames - 1:
                    plan.refreshing.append(len(plan.dense))
                plan.dense.append(position)
        return plan

    def _similarity(self, k_STD: Tensor, reference_STD: Tensor) -> Tensor:
        """Float32 (or wider) score [S,T]; low means changed."""
        if k_STD.dtype in (torch.float16, torch.bfloat16):
            k_STD, reference_STD = k_STD.float(), reference_STD.float()
        if self.metric == "cosine":
            return functional.cosine_similarity(k_STD, reference_STD, dim=-1)
        if self.metric == "dot":
            return (k_STD * reference_STD).sum(-1)
        return -torch.linalg.vector_norm(k_STD - reference_STD, ord=int(self.metric[1]), dim=-1)


class _References:
    """Hands each block the reference of every selective frame, and keeps the newest for the stream."""

    def __init__(self, plan: _Plan, known: list[Reference] | None, device: torch.device):
        self.known = known
        self.needs_known = 0 in plan.group
        shift = 0 if self.needs_known else 1
        self.group = torch.tensor([g - shift for g in plan.group], device=device, dtype=torch.long)
        self.refreshing = torch.tensor(plan.refreshing, device=device, dtype=torch.long)
        self.last: list[Reference] | None = [] if plan.refreshing else known

    def advance(self, depth: int, fresh: Reference | None) -> Reference | None:
        parts = [self.known[depth]] if self.needs_known else []
        if len(self.refreshing):
            if len(self.refreshing) < len(fresh.k):
                fresh = fresh.rows(self.refreshing)
            # A copy, so that the stream does not hold the whole batch.
            self.last.append(Reference(*(x[-1:].clone() for x in fresh)))
            parts.append(fresh)
        return Reference.join(parts).rows(self.group) if len(self.group) else None


def _dense_block(block: Block, h_RTD: Tensor) -> tuple[Tensor, Reference]:
    x = block.norm1(h_RTD)
    k, v = block.k(x), block.v(x)
    attention = block.out(block.attend(block.q(x), k, v))
    h_RTD = h_RTD + attention
    mlp = block.mlp(block.norm2(h_RTD))
    return h_RTD + mlp, Reference(k, v, attention, mlp)


def _selective_block(
    block: Block, h_STD: Tensor, x_STD: Tensor, k_STD: Tensor, reference: Reference, chosen_SK: Tensor
) -> Tensor:
    """One block of selective frames; `reference` is already gathered per frame, and is consumed."""
    frames, tokens = h_STD.shape[:2]
    flat = flat_index(chosen_SK, tokens)
    x = take_rows(x_STD, flat, frames)
    values = put_rows_(reference.v, flat, block.v(x))
    attention = block.out(block.attend(block.q(x), k_STD, values))
    h = take_rows(h_STD, flat, frames) + attention
    h = h + block.mlp(block.norm2(h))
    return put_rows_(reference.attention.add_(reference.mlp).add_(h_STD), flat, h)


def _merge(plan: _Plan, h_dense: Tensor, h_selective: Tensor) -> Tensor:
    if not plan.selective:
        return h_dense
    order = torch.tensor(plan.dense + plan.selective, device=h_dense.device).argsort()
    return torch.cat((h_dense, h_selective)).index_select(0, order)
