"""ToMe: merge similar tokens inside the vision tower, a few in every layer.

Source: Token Merging (arXiv 2210.09461) and the authors' code. Between the attention and the MLP of a layer
tokens are matched by their keys, averaged over heads, and merged into size-weighted means. With
`proportional`, attention weights a token by the number of its patches (the paper's equation 1), which weights
that were not trained with merging need.

The merged tokens form no grid. They bypass the 2x2 pooling: they are projected directly, in position order,
and each becomes one LLM token. So both the tower and the prefill get cheaper.

`tome_oneshot` is the variant in STC's repository: after a dense tower, a third of the tokens is merged by
feature similarity into unweighted means; here until the budget is met (729, 486, 324, 216, 144, 96, 64).

Shapes: F frames, T tower tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor, functional, no_grad, torch
from stc_lmms.methods import budget
from stc_lmms.methods.base import TowerMethod, TowerState
from stc_lmms.methods.budget import PerFrame
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.ops.merge import Matching, match, merge_weighted, unit_sizes

if TYPE_CHECKING:
    from stc_lmms.towers import Block, Tower


@dataclass(frozen=True)
class _Merging(PerFrame, TowerMethod):
    """Shared by both: a budget, and merged tokens that form no grid.

    Args:
        token_budget: merged tokens per frame; all of them go to the LLM.
    """

    def output_grid(self, grid: tuple[int, int]) -> None:
        return None

    def check(self, group: int) -> None:
        """Refuse towers that need all tokens of a merge group (Qwen-VL)."""
        if group > 1:
            raise SettingsError("ToMe cannot be used in a tower that merges groups of patches itself")


@dataclass(frozen=True)
class ToMe(_Merging):
    """Merging in every layer.

    Args:
        inflect: merging schedule: 0 merges equally in every layer, -1 most in the first layers and none in
            the last (the authors' faster schedule), 1 the reverse.
        proportional: proportional attention.
    """

    inflect: float = 0.0
    proportional: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not -1 <= self.inflect <= 1:
            raise SettingsError(f"inflect={self.inflect} must be in [-1, 1]")

    def check_budget(self, grid: tuple[int, int], layers: int) -> None:
        """Refuse a budget that cannot be reached by halving in every layer."""
        tokens = grid[0] * grid[1]
        why = f"the tower has {tokens} patches, and each of its {layers} layers can merge at most half"
        budget.one_of(self.token_budget, range(-(-tokens // 2**layers), tokens + 1), why)

    def schedule(self, tokens: int, layers: int) -> list[int]:
        """Tokens that each layer removes by merging; see `merge_schedule`."""
        return merge_schedule(tokens, layers, self.token_budget, self.inflect)

    @no_grad
    def encode(
        self, tower: Tower, x: Tensor, state: TowerState, *, taps: list[Tensor] | None = None
    ) -> Tensor:
        """Merged features [F,budget,D] in position order, after the class token if there is one."""
        h, layout = tower.embed(x)
        class_token = layout.tokens > _patches(tower)
        removed = self.schedule(layout.tokens - class_token, len(tower.blocks))
        size, work = None, 0
        position = torch.arange(layout.tokens, device=h.device).expand(len(h), -1)
        for block, r in zip(tower.blocks, removed, strict=True):
            work += h.shape[1]
            h, size, matching = merging_block(block, h, size, r, class_token, self.proportional)
            if matching is not None:
                position = position.gather(1, matching.sources())
        state.count(len(h), layout.tokens, round(work / len(removed)))  # mean over the layers
        return h.gather(1, position.argsort(dim=1)[..., None].expand_as(h))


@dataclass(frozen=True)
class ToMeOneShot(_Merging):
    """Merging after a dense tower, as in STC's repository."""

    def check_budget(self, grid: tuple[int, int], layers: int) -> None:
        budget.within(self.token_budget, grid[0] * grid[1])

    @no_grad
    def encode(
        self, tower: Tower, x: Tensor, state: TowerState, *, taps: list[Tensor] | None = None
    ) -> Tensor:
        """Merged features [F,budget,D] in position order, after the class token if there is one."""
        h = tower.encode(x, taps)
        first = h.shape[1] - _patches(tower)
        state.count(len(h), h.shape[1], h.shape[1])
        merged = h[:, first:]
        while merged.shape[1] > self.token_budget:
            tokens = merged.shape[1]
            merged = merge_once(merged, min(max(tokens // 3, 1), tokens - self.token_budget))
        return torch.cat((h[:, :first], merged), dim=1)


def merging_block(
    block: Block, h_FTD: Tensor, size_FT1: Tensor | None, r: int, class_token: bool, proportional: bool
) -> tuple[Tensor, Tensor | None, Matching | None]:
    """One layer, without rotary positions, that merges r tokens between attention and MLP.

    `size_FT1` is the number of patches of each token (None: one each), by which `proportional` weights the
    attention. Returns the output, the sizes, and what was merged (None: nothing).
    """
    q, k, v = block.qkv(block.norm1(h_FTD))
    bias = None
    if proportional and size_FT1 is not None:
        bias = size_FT1.log().transpose(1, 2)[:, None].to(q.dtype)
    q, k, v = map(block.split_heads, (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=block.scale)
    h_FTD = h_FTD + block.out(mixed.transpose(1, 2).flatten(2))
    matching = match(k.mean(dim=1), r, class_token) if r > 0 else None
    if matching is not None:
        size_FT1 = unit_sizes(h_FTD) if size_FT1 is None else size_FT1
        h_FTD, size_FT1 = merge_weighted(matching, h_FTD, size_FT1)
    return h_FTD + block.mlp(block.norm2(h_FTD)), size_FT1, matching


def merge_once(x_FTD: Tensor, r: int) -> Tensor:
    """Merge r tokens by the cosine of their rows into unweighted means; position order."""
    matching = match(x_FTD, r)
    if matching is None:
        return x_FTD
    mean, _ = merge_weighted(matching, x_FTD, unit_sizes(x_FTD))
    order = matching.sources().argsort(dim=1)
    return mean.gather(1, order[..., None].expand_as(mean))


def merge_schedule(tokens: int, layers: int, target: int, inflect: float = 0.0) -> list[int]:
    """Tokens merged per layer so that exactly `target` of `tokens` are left.

    The layers range linearly from r (1 - inflect) to r (1 + inflect), with r the mean, in integers (with
    `inflect` 0: total // layers, one more in the first total % layers). A layer can merge at most half of its
    tokens; what exceeds that in the last layers is moved to earlier ones, and in the first layers to later
    ones.

    Raises:
        ValueError: halving in every layer is not enough.
    """
    if not -(-tokens // 2**layers) <= target <= tokens:
        raise ValueError(f"{layers} layers cannot merge {tokens} tokens into {target}")
    total = tokens - target
    mean = total / layers
    slope = 2 * mean * inflect / max(layers - 1, 1)
    line = [mean * (1 - inflect) + slope * i for i in range(layers)]
    shares = budget.share_out(line, total)
    left = [tokens - sum(shares[:i]) for i in range(layers + 1)]
    # A layer has at most twice as many input tokens as output tokens.
    for i in range(layers - 1, 0, -1):
        left[i] = min(left[i], 2 * left[i + 1])
    for i in range(1, layers):
        left[i] = max(left[i], -(-left[i - 1] // 2))
    return [before - after for before, after in pairwise(left)]


def _patches(tower: Tower) -> int:
    return (tower.config.image_size // tower.config.patch_size) ** 2


PAPER = "2210.09461"
SPECS = (
    MethodSpec("tome", "merge similar tokens in every tower layer; no pooling after", ToMe, paper=PAPER),
    MethodSpec("tome_oneshot", "merge similar tokens after the tower, by thirds", ToMeOneShot, paper=PAPER),
)
