"""StreamDyCoke: periodically keeps a whole frame; otherwise the tokens unlike those of the last frames.

Source: the StreamDyCoke code (`ttm.py`). A token is compared with the same position in the previous
`window_size - 1` frames before compression; it is kept if the largest cosine is below a threshold, and if
there is none, the lowest one is kept. Nothing is averaged.

Deviation: by default the number of tokens follows from `token_budget` instead of a threshold. StreamDyCoke's
pools are `memory=bounded`.
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
class StreamDyCoke(Anchored):
    """StreamDyCoke's token selection.

    Args:
        token_budget: LLM tokens kept per frame, on average over `anchor_every` frames.
        similarity_threshold: keep tokens with a similarity below this, regardless of the budget (0.9 as
            published); None: the budget decides.
        window_size: number of frames compared, including the current one.
        anchor_every: distance between frames that are kept complete.
    """

    similarity_threshold: float | None = None
    window_size: int = 4
    anchor_every: int = 4

    def __post_init__(self):
        super().__post_init__()
        for name, least in (("window_size", 2), ("anchor_every", 1)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.similarity_threshold is not None and not -1 <= self.similarity_threshold <= 1:
            raise SettingsError(f"similarity_threshold={self.similarity_threshold} must be in [-1, 1]")

    @property
    def budget(self) -> BudgetKind:
        """On average over `anchor_every` frames; none with a threshold."""
        return "on average" if self.similarity_threshold is None else "none"

    @property
    def history(self) -> int:
        return self.window_size - 1

    def check(self, tokens_per_frame: int) -> None:
        """Refuse a budget that the whole frames alone exceed."""
        if self.similarity_threshold is None:
            between_anchors(self.token_budget, tokens_per_frame, self.anchor_every)

    def score(self, frame_ND: Tensor, earlier_WND: Tensor) -> Tensor:
        """Largest cosine [N] of each token to the same position in W earlier frames."""
        return similarity(frame_ND, earlier_WND).amax(dim=0)

    def choose(self, frame_ND: Tensor, earlier_WND: Tensor, position: int) -> Tensor:
        score_N = self.score(frame_ND, earlier_WND[-self.history :])
        if self.similarity_threshold is None:
            count = between_anchors(self.token_budget, len(score_N), self.anchor_every)[position - 1]
            return lowest(score_N[None], count)[0]
        below = (score_N < self.similarity_threshold).nonzero()[:, 0]
        return below if len(below) else score_N.argmin()[None]


SPECS = (
    MethodSpec(
        "streamdycoke", "periodic whole frames; of the others, the tokens that are new", token=StreamDyCoke
    ),
)
