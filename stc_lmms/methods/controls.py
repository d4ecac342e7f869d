"""Control methods: what any compression has to beat at the same number of tokens.

`random` and `uniform` ignore the content, and `uniform_frames` drops whole frames. `downsample` and
`pixel_diff` have their own files; "only the last frames" is a memory.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from stc_lmms.lazy import Tensor, torch
from stc_lmms.methods.base import Compressed, Context, State, TokenMethod
from stc_lmms.methods.budget import Budgeted, BudgetKind
from stc_lmms.methods.select import take, take_each, token_grid, uniform_positions
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.ops.transfer import to_device


@dataclass(frozen=True)
class FrameCount(State):
    """Number of frames of the stream so far."""

    frames: int = 0


@dataclass(frozen=True)
class Random(Budgeted, TokenMethod[FrameCount]):
    """Random positions, drawn independently for every frame.

    The draw depends only on the seed and on the number of the frame in its stream.

    Args:
        seed: seed of the draw.
    """

    state_class = FrameCount

    seed: int = 0

    def compress(
        self, tokens_FND: Tensor, context: Context, state: FrameCount
    ) -> tuple[Compressed, FrameCount]:
        total = tokens_FND.shape[1]
        self.check(total)
        kept = [
            # A text seed is hashed, so that neighbouring frames do not share a sequence.
            random.Random(f"{self.seed}/{state.frames + i}").sample(range(total), self.token_budget)  # noqa: S311
            for i in range(len(tokens_FND))
        ]
        kept_FK = to_device(kept, tokens_FND.device, torch.long).view(len(kept), self.token_budget)
        return take(tokens_FND, kept_FK), FrameCount(state.frames + len(kept))


@dataclass(frozen=True)
class Uniform(Budgeted, TokenMethod[State]):
    """The same evenly spaced grid positions in every frame."""

    def compress(self, tokens_FND: Tensor, context: Context, state: State) -> tuple[Compressed, State]:
        self.check(tokens_FND.shape[1])
        grid = token_grid(tokens_FND, context)
        kept = to_device(uniform_positions(grid, self.token_budget), tokens_FND.device)
        return take(tokens_FND, kept.expand(len(tokens_FND), -1)), state


@dataclass(frozen=True)
class UniformFrames(Budgeted, TokenMethod[FrameCount]):
    """Whole frames, evenly spaced in time; the others have no tokens.

    Frame t (from 0) is kept if ceil((t+1) k/N) > ceil(t k/N): frame 0 always, and ceil(T k/N) of T frames.
    """

    state_class = FrameCount

    @property
    def budget(self) -> BudgetKind:
        """On average: a frame has all of its tokens or none."""
        return "on average"

    def compress(
        self, tokens_FND: Tensor, context: Context, state: FrameCount
    ) -> tuple[Compressed, FrameCount]:
        total = tokens_FND.shape[1]
        self.check(total)
        everything = torch.arange(total, device=tokens_FND.device)
        after = state.frames + len(tokens_FND)
        kept = []
        for number in range(state.frames, after):
            due, had = (-(-n * self.token_budget // total) for n in (number + 1, number))
            kept.append(everything if due > had else everything[:0])
        return take_each(tokens_FND, kept), FrameCount(after)


SPECS = (
    MethodSpec("random", "control: random tokens of every frame", token=Random),
    MethodSpec("uniform", "control: evenly spaced tokens of every frame", token=Uniform),
    MethodSpec("uniform_frames", "control: evenly spaced whole frames", token=UniformFrames),
)
