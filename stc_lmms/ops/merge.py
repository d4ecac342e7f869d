"""Bipartite soft matching: which tokens merge into which, and the merging.

Source: Token Merging (arXiv 2210.09461), section 3 and appendix D, and the authors' code. Tokens at even
positions form set A, those at odd positions set B. Each token of A proposes its most similar token of B, and
the r most similar proposals are carried out.

Shapes: F frames, N tokens, M = N - r after merging, r sources, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.ops.rows import gather_rows
from stc_lmms.ops.wide import wide


@dataclass(frozen=True)
class Matching:
    """One step of merging.

    Merged tokens are in the authors' order: the unmerged ones of A (most similar first; ascending if there is
    a class token), then all of B. A distillation token, which follows the class token, comes second.

    Attributes:
        tokens: N.
        unmerged_FU: indices within A of the tokens that stay.
        source_Fr: indices within A of the tokens that merge.
        target_Fr: indices within B of the tokens they merge into.
        similarity_Fr: similarity of each pair, highest first; float32 or wider.
        distill_token: whether there is a distillation token.
    """

    tokens: int
    unmerged_FU: Tensor
    source_Fr: Tensor
    target_Fr: Tensor
    similarity_Fr: Tensor
    distill_token: bool = False

    def sum(self, x_FNC: Tensor) -> Tensor:
        """Sum of the rows of each group: [F,M,C]."""
        a, b = x_FNC[:, ::2], x_FNC[:, 1::2]
        # A product with the membership matrix; unlike a scatter, it adds in the same order on every device.
        members_FBr = functional.one_hot(self.target_Fr, b.shape[1]).transpose(1, 2).to(x_FNC.dtype)
        merged = b + members_FBr @ gather_rows(a, self.source_Fr)
        return self._order(gather_rows(a, self.unmerged_FU), merged)

    def sources(self) -> Tensor:
        """Index among the N of each merged token or its target, [F,M]."""
        b = torch.arange(1, self.tokens, 2, device=self.unmerged_FU.device)
        indices = 2 * self.unmerged_FU[..., None], b.expand(len(self.unmerged_FU), -1)[..., None]
        return self._order(*indices)[..., 0]

    def _order(self, unmerged: Tensor, merged: Tensor) -> Tensor:
        if self.distill_token:
            return torch.cat((unmerged[:, :1], merged[:, :1], unmerged[:, 1:], merged[:, 1:]), dim=1)
        return torch.cat((unmerged, merged), dim=1)


def match(
    metric_FNC: Tensor, r: int, class_token: bool = False, distill_token: bool = False
) -> Matching | None:
    """Match tokens by the cosine of their rows; None if nothing merges, so that they keep their order.

    Args:
        metric_FNC: the rows to compare, for instance keys averaged over heads.
        r: number of tokens to remove, limited to half of the unprotected ones.
        class_token: token 0 is a class token; it neither merges nor is merged into.
        distill_token: token 1 is a distillation token (after a class token); treated the same way.
    """
    tokens = metric_FNC.shape[1]
    r = min(r, (tokens - class_token - distill_token) // 2)
    if r <= 0:
        return None
    unit = wide(metric_FNC)
    unit = unit / unit.norm(dim=-1, keepdim=True)
    score = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    if class_token:
        score[:, 0] = -torch.inf
    if distill_token:
        score[:, :, 0] = -torch.inf
    best, partner = score.max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    unmerged = order[:, r:]
    if class_token:
        unmerged = unmerged.sort(dim=1).values
    source = order[:, :r]
    return Matching(
        tokens, unmerged, source, partner.gather(1, source), best.gather(1, source), distill_token
    )


def merge_weighted(matching: Matching, x_FNC: Tensor, size_FN1: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each group weighted by the sizes of its tokens, and the sums of those sizes."""
    size_FM1 = matching.sum(size_FN1)
    mean = matching.sum(x_FNC * size_FN1) / size_FM1  # float32 or wider, like the sizes
    return mean.to(x_FNC.dtype), size_FM1


def unit_sizes(x_FNC: Tensor) -> Tensor:
    """Size 1 for every token [F,N,1], float32 or wider."""
    dtype = torch.promote_types(x_FNC.dtype, torch.float32)
    return torch.ones(*x_FNC.shape[:2], 1, dtype=dtype, device=x_FNC.device)


def head_mean(x_FNC: Tensor, heads: int) -> Tensor:
    """Mean over the heads concatenated in each row: [F,N,C/heads], float32 or wider."""
    dtype = torch.promote_types(x_FNC.dtype, torch.float32)
    return x_FNC.unflatten(-1, (heads, -1)).mean(-2, dtype=dtype)


def merge_to(x_FNC: Tensor, count: int, heads: int) -> Tensor:
    """Merge until `count` tokens are left, in as few steps as halving allows: [F,count,C].

    Tokens are compared by their mean over heads. All have the same weight at the start; arithmetic between
    steps is in float32 or wider. If there are at most `count` tokens, they are unchanged.
    """
    mean_FMC, size_FM1 = wide(x_FNC), unit_sizes(x_FNC)
    while mean_FMC.shape[1] > count:
        matching = match(head_mean(mean_FMC, heads), mean_FMC.shape[1] - count)
        mean_FMC, size_FM1 = merge_weighted(matching, mean_FMC, size_FM1)
    return mean_FMC.to(x_FNC.dtype)
