"""VidCom2: keep the tokens that differ most from the video and from their frame.

Source: VidCom2 (arXiv 2505.14454), section 3, and the authors' code. Channels: the half with the lowest
variance over all tokens. A token's score is its similarity to the mean of all normalised tokens plus that
to the mean of its frame; the lowest are kept. Distinctive frames get a larger share of the budget.

The original needs the whole video. Two variants work on a stream:

- `causal` (default): every frame keeps exactly `token_budget` tokens. The variances and the video's mean
  are those of the frames so far, including the current one; where the selected channels change, each
  channel's mean is over the frames in which it was selected.
- `original`: the original on windows of `window` frames, aligned to the start of the stream. Frames wait
  until their window is complete; a question sees the waiting ones compressed as a shorter window. Counts are
  rounded by largest remainder so that a window of W frames keeps exactly W * token_budget tokens (the authors
  round each frame separately). `window=1` is the frame-by-frame port in STC's repository.

Shapes: T frames, N tokens per frame, D width, C = D/2 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.methods.base import Compressed, Context, State, TokenMethod
from stc_lmms.methods.budget import Budgeted, BudgetKind, share_out
from stc_lmms.methods.select import take, take_each
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.temporal import running_sums
from stc_lmms.ops.kernels import gaussian_similarity
from stc_lmms.ops.rows import lowest
from stc_lmms.ops.wide import wide

CHANNEL_SHARE, TEMPERATURE = 0.5, 0.01


class VideoScores(NamedTuple):
    """The selected channels, ascending in variance, and every token's similarity to both means."""

    channels_C: Tensor
    video_TN: Tensor
    frame_TN: Tensor


def score_video(tokens_TND: Tensor) -> VideoScores:
    """Scores of a whole video, as the original computes them; float32 or wider."""
    x = wide(tokens_TND)
    channels_C = _quiet(x.flatten(0, 1).var(dim=0, correction=0))
    z = functional.normalize(x[..., channels_C], dim=-1)
    frame = gaussian_similarity(z, z.mean(dim=1, keepdim=True))
    return VideoScores(channels_C, gaussian_similarity(z, z.mean(dim=(0, 1))), frame)


def frame_rates(video_TN: Tensor, base_rate: float) -> Tensor:
    """Share of its tokens that each frame keeps, [T]: R (1 + softmax(u / 0.01) - 1/T), at most 1.

    u is minus the mean similarity to the video.
    """
    share_T = (-video_TN.mean(dim=1) / TEMPERATURE).softmax(dim=0)
    return (base_rate * (1 + share_T - 1 / len(video_TN))).clamp_max(1.0)


def pick(scores: VideoScores, counts: list[int]) -> list[Tensor]:
    """Indices of the tokens with the lowest scores, `counts[t]` of frame t."""
    total_TN = scores.video_TN + scores.frame_TN
    return [lowest(row[None], count)[0] for row, count in zip(total_TN, counts, strict=True)]


@dataclass(frozen=True)
class VidCom2State(State):
    """State of one stream.

    Attributes:
        frames: number of frames scored.
        square: sum over frames of (variance + squared mean) of each channel, float64 [D].
        mean: sum over frames of each channel's mean, float64 [D].
        centre: sum over frames of the mean normalised token, where selected, float64 [D].
        selected: number of frames in which each channel was selected, float64 [D].
        waiting: tokens [w,N,D] of the frames that wait for their window to fill.
    """

    frames: int = 0
    square: Tensor | None = None
    mean: Tensor | None = None
    centre: Tensor | None = None
    selected: Tensor | None = None
    waiting: Tensor | None = None


@dataclass(frozen=True)
class VidCom2(Budgeted, TokenMethod[VidCom2State]):
    """VidCom2 on a stream; see the module docstring for the modes.

    Args:
        mode: `causal` or `original`.
        window: frames per window in mode `original`.
    """

    state_class = VidCom2State

    mode: Literal["causal", "original"] = "causal"
    window: int = 16

    def __post_init__(self):
        super().__post_init__()
        if self.window < 1:
            raise SettingsError(f"window={self.window} must be at least 1")

    @property
    def budget(self) -> BudgetKind:
        """With `original`, the frames of a window share its budget."""
        return "on average" if self.mode == "original" and self.window > 1 else "per frame"

    @property
    def delay_frames(self) -> int:
        """The first frame of a window waits for all others."""
        return self.window - 1 if self.mode == "original" else 0

    def compress(
        self, tokens_FND: Tensor, context: Context, state: VidCom2State
    ) -> tuple[Compressed, VidCom2State]:
        if self.mode == "original":
            return self._compress_windows(tokens_FND, state)
        self.check(tokens_FND.shape[1])
        score_FN, state = self.score_causally(tokens_FND, state)
        return take(tokens_FND, lowest(score_FN, self.token_budget)), state

    def score_causally(self, tokens_FND: Tensor, state: VidCom2State) -> tuple[Tensor, VidCom2State]:
        """Sum of both similarities [F,N] of the next F frames, each against the frames up to itself."""
        if len(tokens_FND) == 0:
            return tokens_FND.new_zeros(tokens_FND.shape[:2]), state
        x = wide(tokens_FND)
        # All sums are float64 and updated frame by frame: independent of how the stream is split.
        mean_FD = x.mean(dim=1).double()
        square_FD = x.var(dim=1, correction=0).double() + mean_FD.square()
        mean_FD, square_FD = running_sums(state.mean, mean_FD), running_sums(state.square, square_FD)
        count_F1 = state.frames + torch.arange(1, len(x) + 1, device=x.device, dtype=torch.float64)[:, None]
        channels_FC = _quiet(square_FD / count_F1 - (mean_FD / count_F1).square())

        z = functional.normalize(x.gather(2, channels_FC[:, None].expand(-1, x.shape[1], -1)), dim=-1)
        own_FC = z.mean(dim=1)
        nothing = torch.zeros_like(mean_FD)
        centre_FD = running_sums(state.centre, nothing.scatter(1, channels_FC, own_FC.double()))
        selected_FD = running_sums(state.selected, nothing.scatter(1, channels_FC, 1.0))
        video_FC = (centre_FD.gather(1, channels_FC) / selected_FD.gather(1, channels_FC)).to(x.dtype)
        score_FN = gaussian_similarity(z, video_FC[:, None]) + gaussian_similarity(z, own_FC[:, None])
        last = (y[-1].clone() for y in (square_FD, mean_FD, centre_FD, selected_FD))
        return score_FN, VidCom2State(state.frames + len(x), *last)

    def _compress_windows(self, tokens_FND: Tensor, state: VidCom2State) -> tuple[Compressed, VidCom2State]:
        self.check(tokens_FND.shape[1])
        if state.waiting is not None:
            tokens_FND = torch.cat((state.waiting, tokens_FND))
        full = len(tokens_FND) // self.window * self.window
        windows = tokens_FND[:full].unflatten(0, (-1, self.window))
        kept = [k for part in windows for k in self._pick(part)]
        rest = tokens_FND[full:].clone() if full < len(tokens_FND) else None
        return take_each(tokens_FND[:full], kept), VidCom2State(state.frames + full, waiting=rest)

    def _pick(self, tokens_TND: Tensor) -> list[Tensor]:
        frames, tokens = tokens_TND.shape[:2]
        scores = score_video(tokens_TND)
        rates_T = frame_rates(scores.video_TN, self.token_budget / tokens)
        total = frames * self.token_budget
        return pick(scores, share_out((rates_T * tokens).tolist(), total, least=1, most=tokens))

    def pending(self, state: VidCom2State) -> Compressed | None:
        """The waiting frames, as one shorter window."""
        if state.waiting is None:
            return None
        return take_each(state.waiting, self._pick(state.waiting))


def _quiet(variance: Tensor) -> Tensor:
    """The half of the channels with the lowest variance [..., D], ascending; ties go to the first."""
    channels = max(1, int(variance.shape[-1] * CHANNEL_SHARE))
    return variance.sort(dim=-1, stable=True).indices[..., :channels]


SPECS = (
    MethodSpec(
        "vidcom2",
        "tokens unlike the video and their frame; mode=original shares a window's budget",
        token=VidCom2,
        paper="2505.14454",
    ),
)
