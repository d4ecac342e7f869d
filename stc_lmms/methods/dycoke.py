"""DyCoke: keeps one frame in four whole, and of the others the tokens that changed most.

Source: DyCoke (arXiv 2411.15024) and the authors' `dycole_ttm`. The paper describes merging; the code drops
tokens and averages nothing. In a window of four frames, the second and fourth are compared with the previous
frame, the third with the first, always before compression. No later frame is needed, so the method is causal.

Deviations from the authors' code: theirs handles the end of a video, which a stream does not have (the last
window keeps its third frame whole, and the last frame of an odd number is lost). Tokens are in order of
position, theirs in order of similarity. By default the number of tokens follows from `token_budget`: 64 of
196 is 196, 20, 20, 20.

DyCoke's second stage, during decoding, is `decode_prune` of the full memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor
from stc_lmms.methods.budget import BudgetKind
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.temporal import Anchored, between_anchors, similarity
from stc_lmms.ops.rows import lowest


@dataclass(frozen=True)
class DyCoke(Anchored):
    """DyCoke, first stage.

    Args:
        token_budget: LLM tokens kept per frame, on average over four frames.
        merge_ratio: the authors' K (0.7 in their scripts): the other frames keep int((1 - K) * N) tokens,
            regardless of the budget; None: the budget decides.
    """

    anchor_every = 4
    history = 2

    merge_ratio: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.merge_ratio is not None and not 0 <= self.merge_ratio <= 1:
            raise SettingsError(f"merge_ratio={self.merge_ratio} must be in [0, 1]")

    @property
    def budget(self) -> BudgetKind:
        """On average over a window; none with `merge_ratio`."""
        return "on average" if self.merge_ratio is None else "none"

    def check(self, tokens_per_frame: int) -> None:
        """Refuse a budget that the whole frames alone exceed."""
        self.keep(tokens_per_frame)

    def keep(self, tokens: int) -> tuple[int, ...]:
        """Tokens kept of the second, third and fourth frame of a window."""
        if self.merge_ratio is None:
            return between_anchors(self.token_budget, tokens, self.anchor_every)
        return (int((1 - self.merge_ratio) * tokens),) * (self.anchor_every - 1)

    def choose(self, frame_ND: Tensor, earlier_WND: Tensor, position: int) -> Tensor:
        score_N = similarity(frame_ND, earlier_WND[-2 if position == 2 else -1])
        return lowest(score_N[None], self.keep(len(frame_ND))[position - 1])[0]


SPECS = (
    MethodSpec(
        "dycoke",
        "one frame in four whole; of the others, the tokens that changed most",
        token=DyCoke,
        paper="2411.15024",
    ),
)
