"""DyCoke: one frame in four stays whole; of the others, the tokens that changed most.

Source: DyCoke (arXiv 2411.15024) and the authors' `dycole_ttm`. The paper speaks of merging; the code drops
and averages nothing. In a window of four frames the second and fourth are compared with the frame before
them, the third with the first, always with the full frame. So no later frame is needed, and this is a
stream method as it is.

Deviations from the authors' code, all of them ends of a video that a stream does not have: there the last
window keeps its third frame whole, and the last frame of an odd number is lost. Tokens come out in order of
position, there in order of similarity. By default the number kept follows from `token_budget`, so that
budgets compare; 64 of 196 is 196, 20, 20, 20.

Frames are ragged: a memory must allow that (all of ours do). DyCoke's second stage, at decoding, is
`decode_prune` of the full memory.

Shapes: F frames, N tokens per frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor, torch
from stc_lmms.methods.base import Compressed, Context, TokenMethod
from stc_lmms.methods.budget import BudgetKind, at_least_one
from stc_lmms.methods.select import take_each
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.temporal import LastFrames, between_anchors, similarity
from stc_lmms.ops.rows import lowest

WINDOW = 4


@dataclass(frozen=True)
class DyCoke(TokenMethod[LastFrames]):
    """DyCoke, first stage.

    Args:
        token_budget: LLM tokens kept per frame, on average over four frames.
        merge_ratio: K of the authors (0.7 in their scripts): a frame between keeps int((1 - K) * N)
            tokens, whatever the budget; None: the budget decides.
    """

    token_budget: int = 64
    merge_ratio: float | None = None

    def __post_init__(self):
        """Check ranges."""
        at_least_one(self.token_budget)
        if self.merge_ratio is not None and not 0 <= self.merge_ratio <= 1:
            raise SettingsError(f"merge_ratio={self.merge_ratio} must be in [0, 1]")

    @property
    def budget(self) -> BudgetKind:
        """On average over a window; as published there is none."""
        return "on average" if self.merge_ratio is None else "none"

    def open_state(self) -> LastFrames:
        """No frame yet."""
        return LastFrames()

    def check(self, tokens_per_frame: int) -> None:
        """Refuse a budget that the whole frames alone exceed."""
        self.keep(tokens_per_frame)

    def keep(self, tokens: int) -> tuple[int, ...]:
        """Tokens kept of the second, third and fourth frame of a window."""
        if self.merge_ratio is None:
            return between_anchors(self.token_budget, tokens, WINDOW)
        return (int((1 - self.merge_ratio) * tokens),) * (WINDOW - 1)

    def compress(
        self, tokens_FND: Tensor, context: Context, state: LastFrames
    ) -> tuple[Compressed, LastFrames]:
        """See `TokenMethod.compress`."""
        frames, tokens, _ = tokens_FND.shape
        everything = torch.arange(tokens, device=tokens_FND.device)
        keep = self.keep(tokens)
        known = tokens_FND if state.last is None else torch.cat((state.last, tokens_FND))
        first = len(known) - frames
        kept: list[Tensor] = []
        for i in range(frames):
            place = (state.frames + i) % WINDOW
            if place == 0:
                kept.append(everything)
                continue
            earlier = known[first + i - (2 if place == 2 else 1)]
            kept.append(lowest(similarity(tokens_FND[i], earlier)[None], keep[place - 1])[0])
        new = LastFrames(state.frames + frames, known[-2:].clone())
        return take_each(tokens_FND, kept), new


SPECS = (
    MethodSpec(
        "dycoke",
        "one frame in four whole, of the others the tokens that changed most",
        token=DyCoke,
        paper="2411.15024",
    ),
)
