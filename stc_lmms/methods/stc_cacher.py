"""STC-Cacher: recompute only the vision tokens that changed since a reference frame.

Source: STC (arXiv 2512.00891), section on STC-Cacher, equations 1-6, and the authors' code. Every
`cache_interval` frames one reference frame is encoded densely; each block keeps its keys K, values V and
the sum U of its attention output (after the output projection) and its MLP output. In a selective frame
every block computes fresh keys for all tokens, finds the `update_ratio` tokens least similar to K, and
computes queries, new values, attention rows and MLP rows for those only; all other rows take U.

Keys are compared before any rotation, which is the same in both frames and does not change their similarity.
In Qwen-VL towers a temporal slice is a frame; when the grid changes, the next frame is dense.

The reference frames of a call form one batch, its selective frames another, block by block: the
frame-by-frame definition in another order, because a selective frame depends on its reference frame only. A
stream's references are allocated once per shape and written in place, so their addresses are stable.

Deviations from the authors' code: state belongs to the stream, not to the layers; splitting a stream into
several calls does not add reference frames; ties are broken by position instead of by rounding noise.

Shapes: F frames (R dense, S selective), T tower tokens, K selected tokens, D width.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor, no_grad, torch
from stc_lmms.methods.base import TowerMethod, TowerState
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.stc_cacher_block import Choice, Reference, Reuse, dense_block, selective_block
from stc_lmms.methods.stc_cacher_roles import FrameRoles, adaptive_roles, interval_roles
from stc_lmms.ops.rows import cosine, flat_index, lowest, pick

if TYPE_CHECKING:
    from stc_lmms.towers import Block, Layout, Patches, Tower


@dataclass
class CacherState(TowerState):
    """State of one stream.

    Attributes:
        step: frames since the references became valid (`refresh=adaptive`: since the last reference frame).
        key: shape, dtype and device that the references belong to.
        references: one per block, leading dimension 1; None before the first frame.
    """

    step: int = 0
    key: Hashable = None
    references: list[Reference] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the references; they stay allocated after `reset`."""
        return sum(x.nbytes for block in self.references or () for x in block if x is not None)

    def reset(self) -> None:
        super().reset()
        self.step = 0


@dataclass
class Trace:
    """What `STCCacher.encode` did, block by block, for verification.

    Attributes:
        selective: positions of the selective frames among the frames of the call.
        indices: one [S,K] tensor per block.
        similarity: one [S,T] tensor per block, None for a block that did not score.
        hidden: block inputs and the last output, [F,T,D] each.
    """

    selective: list[int] = field(default_factory=list)
    indices: list[Tensor] = field(default_factory=list)
    similarity: list[Tensor | None] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class STCCacher(TowerMethod):
    """STC-Cacher.

    Args:
        cache_interval: distance between reference frames; 1 encodes every frame densely.
        update_ratio: fraction of tokens recomputed in a selective frame, in (0, 1].
        selection: `per_layer` selects tokens in every block (the paper); `shared` selects in the first block
            and uses these tokens in all of them (newer official code).
        metric: similarity of fresh and reference keys, `cosine` (the paper), `dot`, or the negative distance
            `l1` or `l2`; the least similar tokens are recomputed.
        granularity: `token` selects single tokens; `group` selects complete merge groups (the 2x2 tokens
            that become one LLM token in Qwen-VL) by their mean similarity.
        refresh: `interval` has a reference frame every `cache_interval` frames; `adaptive` also makes one
            of a frame that differs from its reference (a scene cut), and restarts the interval there.
        cut_similarity: a frame is a cut if the cosine similarity of its keys in the first block to those
            of its reference, mean over tokens, is below this. Reads one result back from the device per
            call.
    """

    state_class = CacherState

    cache_interval: int = 4
    update_ratio: float = 0.25
    selection: Literal["per_layer", "shared"] = "per_layer"
    metric: Literal["cosine", "dot", "l1", "l2"] = "cosine"
    granularity: Literal["token", "group"] = "token"
    refresh: Literal["interval", "adaptive"] = "interval"
    cut_similarity: float | None = None

    def __post_init__(self):
        cut, adaptive = self.cut_similarity, self.refresh == "adaptive"
        if self.cache_interval < 1:
            raise SettingsError(f"cache_interval={self.cache_interval} must be at least 1")
        if not 0 < self.update_ratio <= 1:
            raise SettingsError(f"update_ratio={self.update_ratio} must be in (0, 1]")
        if cut is not None and not -1 < cut <= 1:
            raise SettingsError(f"cut_similarity={cut} must be in (-1, 1]")
        if adaptive and cut is None:
            raise SettingsError("refresh=adaptive needs cut_similarity")
        if not adaptive and cut is not None:
            raise SettingsError(f"cut_similarity={cut} is only for refresh=adaptive, not refresh=interval")
        if adaptive and self.cache_interval == 1:
            raise SettingsError("refresh=adaptive has nothing to decide with cache_interval=1: raise it")

    def check(self, group: int) -> None:
        if self.granularity == "group" and group == 1:
            raise SettingsError(
                "granularity=group needs a tower that merges groups of tokens (Qwen-VL); this one does not"
            )

    def selected(self, tokens: int, group: int = 1) -> int:
        """Tokens recomputed in a selective frame: K = max(1, floor(T * update_ratio)), or groups of them."""
        unit = group if self.granularity == "group" else 1
        return max(1, int(tokens // unit * self.update_ratio)) * unit

    def role(self, state: CacherState) -> Literal["reference", "selective"] | None:
        """Role of the next single frame if its shape has not changed; None if its content decides."""
        if self.refresh == "adaptive":
            return None
        return "selective" if state.step % self.cache_interval else "reference"

    @no_grad
    def encode(
        self,
        tower: Tower,
        x: Tensor | Patches,
        state: CacherState,
        trace: Trace | None = None,
        *,
        taps: list[Tensor] | None = None,
    ) -> Tensor:
        """Features [F,T,D] of the next F frames; see `TowerMethod.encode`."""
        h_FTD, layout = tower.embed(x)
        roles = self.begin(tower, h_FTD, layout, state)
        out_FTD = self.run(tower, h_FTD, layout, roles, state.references, trace, taps)
        self.commit(roles, layout, state)
        return out_FTD

    def begin(self, tower: Tower, h_FTD: Tensor, layout: Layout, state: CacherState) -> FrameRoles:
        """Host side before a call: decide the roles; a new shape, dtype or device gets new references."""
        self.check(layout.group)
        key = (layout.key, h_FTD.shape[1:], h_FTD.dtype, h_FTD.device)
        if state.key != key:
            state.key, state.step, state.references = key, 0, None
        if state.references is None:
            state.references = self._allocate(len(tower.blocks), h_FTD)
        if self.refresh == "adaptive" and tower.blocks:
            return FrameRoles(self._roles_by_content(tower.blocks[0], h_FTD, state))
        return FrameRoles(interval_roles(state.step, len(h_FTD), self.cache_interval))

    def run(
        self,
        tower: Tower,
        h_FTD: Tensor,
        layout: Layout,
        roles: FrameRoles,
        references: list[Reference],
        trace: Trace | None = None,
        taps: list[Tensor] | None = None,
    ) -> Tensor:
        """Device side of a call: all blocks, in place on `references`; `h_FTD` is overwritten.

        Never waits for the device. For single frames of a role, shapes and addresses never change.
        """
        dense_RTD, selective_STD = roles.split(h_FTD)
        choice = None
        for depth, block in enumerate(tower.blocks):
            if trace is not None:
                trace.hidden.append(roles.join(dense_RTD, selective_STD).clone())
            fresh = None
            if roles.dense:
                dense_RTD, fresh = dense_block(block, dense_RTD, layout)
            if roles.selective:
                reuse = Reuse(roles.groups, references[depth], fresh)
                x_STD = block.norm1(selective_STD)
                k_STD = block.k(x_STD)
                score_ST = None
                if self.scores(depth):
                    score_ST = reuse.similarity(k_STD, self.metric)
                    choice = self._choose(score_ST, layout)
                selective_STD = selective_block(block, layout, selective_STD, x_STD, k_STD, reuse, choice)
                if trace is not None:
                    trace.indices.append(choice.index_SK)
                    trace.similarity.append(score_ST)
            if roles.dense and references:
                # After the selective frames, which may still need the old reference.
                for kept, new in zip(references[depth], fresh, strict=True):
                    if kept is not None:
                        kept.copy_(new[-1:])
            if taps is not None and depth in tower.taps:
                out_FTD = roles.join(dense_RTD, selective_STD)
                taps.append(out_FTD if roles.dense else out_FTD.clone())  # the next block overwrites it
        out_FTD = roles.join(dense_RTD, selective_STD)
        if trace is not None:
            trace.selective = [i for i, dense in enumerate(roles.is_dense) if not dense]
            trace.hidden.append(out_FTD)
        return out_FTD

    def commit(self, roles: FrameRoles, layout: Layout, state: CacherState) -> None:
        """Host side after a call: count its frames."""
        frames = len(roles.is_dense)
        state.step += frames
        if self.refresh == "adaptive" and roles.dense:
            state.step = frames - max(i for i, dense in enumerate(roles.is_dense) if dense)
        state.count(roles.dense, layout.tokens, layout.tokens)
        state.count(roles.selective, layout.tokens, self.selected(layout.tokens, layout.group))

    def scores(self, depth: int) -> bool:
        """Whether block `depth` selects tokens."""
        return depth == 0 or self.selection == "per_layer"

    def _allocate(self, depth: int, h_FTD: Tensor) -> list[Reference]:
        if self.cache_interval == 1:  # every frame is dense
            return []
        shape = (1, *h_FTD.shape[1:])
        with torch.inference_mode(False):  # so that they can be written inside and outside inference mode
            empty = [[h_FTD.new_empty(shape) for _ in Reference._fields] for _ in range(depth)]
        return [Reference(k if self.scores(i) else None, v, u) for i, (k, v, u) in enumerate(empty)]

    def _choose(self, score_ST: Tensor, layout: Layout) -> Choice:
        tokens, group = score_ST.shape[1], layout.group
        count = self.selected(tokens, group)
        if self.granularity == "token":
            index_SK, rank_ST = pick(score_ST, count)
        else:
            groups = lowest(score_ST.unflatten(1, (-1, group)).mean(-1), count // group)
            within = torch.arange(group, device=score_ST.device)
            index_SK, rank_ST = (groups.unsqueeze(-1) * group + within).flatten(1), None
        return Choice(index_SK, flat_index(index_SK, tokens), rank_ST)

    def _roles_by_content(self, block: Block, h_FTD: Tensor, state: CacherState) -> tuple[bool, ...]:
        """Roles with `refresh=adaptive`: one similarity per pair of frames that may be compared.

        The input of the first block is the embedding, so its keys do not depend on any role.
        """
        frames, interval = len(h_FTD), self.cache_interval
        ahead = min(frames, -state.step % interval)  # frames that may reuse the stream's own reference
        k_FTD = block.k(block.norm1(h_FTD))
        pairs = [(k_FTD[:ahead], state.references[0].k)]
        pairs += [(k_FTD[d:], k_FTD[:-d]) for d in range(1, min(interval, frames))]
        means = [cosine(new, old).mean(-1) for new, old in pairs]
        flat = iter(torch.cat(means).tolist())
        stored, *lagged = ([next(flat) for _ in range(len(mean))] for mean in means)
        return adaptive_roles(state.step, frames, interval, self.cut_similarity, stored, lagged)


SPECS = (
    MethodSpec(
        "stc_cacher", "recompute only the vision tokens that changed", tower=STCCacher, paper="2512.00891"
    ),
)
