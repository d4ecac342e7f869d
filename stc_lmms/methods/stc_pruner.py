"""STC-Pruner: keep the LLM tokens of each frame that differ most from the frame and the past.

Source: STC (arXiv 2512.00891), section on STC-Pruner, equations 7-9, and the authors' code, which
differs from the paper: half of the channels (those with the highest variance) are dropped, the temporal
anchor is the mean of the whole history including the current frame, and the default score is a sum of
Gaussian kernels.

Deviation from the authors' code: the history never leaks from one video into the next.

Shapes: F frames, N tokens per frame, D width, C kept channels, K budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.methods.base import Compressed, Context, State, TokenMethod
from stc_lmms.methods.budget import Budgeted
from stc_lmms.methods.select import take
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.temporal import running_sums
from stc_lmms.ops.kernels import gaussian_similarity
from stc_lmms.ops.wide import wide


@dataclass(frozen=True)
class PrunerState(State):
    """Sum of the frame means so far (float64, [C] or [D]) and their number."""

    total: Tensor | None = None
    count: int = 0


class Scores(NamedTuple):
    """Scores [B,F,N], kept channels [B,C] in ascending order of variance, and temporal anchors [B,C]."""

    value: Tensor
    channels: Tensor
    memory: Tensor


@dataclass(frozen=True)
class STCPruner(Budgeted, TokenMethod[PrunerState]):
    """STC-Pruner.

    Args:
        strategy: `gaussian` (authors' default) or `dual_anchor` (weighted cosine distances, eq. 8).
        history: `official` averages the frame means by position although every frame has its own channel
            order (like the authors' code); `aligned` averages full-width means and takes the current
            frame's channels.
        alpha: weight of the temporal anchor in `dual_anchor`.
        channel_keep: fraction of channels used, those of lowest variance.
    """

    state_class = PrunerState

    strategy: Literal["gaussian", "dual_anchor"] = "gaussian"
    history: Literal["official", "aligned"] = "official"
    alpha: float = 0.5
    channel_keep: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise SettingsError(f"alpha={self.alpha} must be in [0, 1]")
        if not 0 < self.channel_keep <= 1:
            raise SettingsError(f"channel_keep={self.channel_keep} must be in (0, 1]")

    def compress(
        self, tokens_FND: Tensor, context: Context, state: PrunerState
    ) -> tuple[Compressed, PrunerState]:
        """Keep `token_budget` tokens of each frame, in position order; every frame is a chunk."""
        return self.compress_chunks(tokens_FND[:, None], state)

    def compress_chunks(self, tokens_BFND: Tensor, state: PrunerState) -> tuple[Compressed, PrunerState]:
        """The same for B chunks of F frames that share a channel selection and one history entry."""
        frames_FND = tokens_BFND.flatten(0, 1)
        self.check(frames_FND.shape[1])
        scores, state = self.score(tokens_BFND, state)
        highest = self.strategy == "dual_anchor"
        kept_BFK = scores.value.topk(self.token_budget, largest=highest, sorted=False).indices
        return take(frames_FND, kept_BFK.flatten(0, 1)), state

    def score(self, tokens_BFND: Tensor, state: PrunerState) -> tuple[Scores, PrunerState]:
        """Novelty of every token of B consecutive chunks, each against the history up to itself."""
        x = wide(tokens_BFND)
        flat = x.flatten(1, 2)
        variance_BD = flat.var(dim=1, correction=0)
        order_BD = variance_BD.sort(dim=-1, stable=True).indices
        channels_BC = order_BD[:, : max(1, int(x.shape[-1] * self.channel_keep))]
        x = x.gather(-1, channels_BC[:, None, None].expand(*x.shape[:-1], -1))

        # Running means in float64, summed frame by frame: independent of how the stream is split.
        mean = flat.mean(dim=1).double()
        if self.history == "official":
            mean = mean.gather(-1, channels_BC)
        total = running_sums(state.total, mean)
        count = state.count + torch.arange(1, len(total) + 1, device=x.device)
        memory = total / count[:, None]
        if self.history == "aligned":
            memory = memory.gather(-1, channels_BC)
        memory = memory.to(x.dtype)

        score = self._gaussian if self.strategy == "gaussian" else self._dual_anchor
        new_state = PrunerState(total[-1].clone(), state.count + len(total))
        return Scores(score(x, memory[:, None, None]), channels_BC, memory), new_state

    def _gaussian(self, x_BFNC: Tensor, memory: Tensor) -> Tensor:
        z = functional.normalize(x_BFNC, dim=-1)
        spatial, temporal = z.mean(dim=2, keepdim=True), functional.normalize(memory, dim=-1)
        return gaussian_similarity(z, spatial) + gaussian_similarity(z, temporal)

    def _dual_anchor(self, x_BFNC: Tensor, memory: Tensor) -> Tensor:
        temporal = functional.cosine_similarity(x_BFNC, memory, dim=-1)
        spatial = functional.cosine_similarity(x_BFNC, x_BFNC.mean(dim=2, keepdim=True), dim=-1)
        return self.alpha * (1 - temporal) + (1 - self.alpha) * (1 - spatial)


SPECS = (
    MethodSpec("stc_pruner", "keep a budget of novel tokens per frame", token=STCPruner, paper="2512.00891"),
)
