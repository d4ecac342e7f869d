"""The contracts of compression methods.

A method is a frozen dataclass of hyper-parameters; its fields are model arguments. It has no state: that of a
stream is an object that the stream owns.

Shapes: F frames, N tokens per frame before a token method, M kept tokens of all frames, T tower tokens,
D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from stc_lmms.lazy import Tensor, torch
from stc_lmms.methods.budget import BudgetKind

if TYPE_CHECKING:
    from stc_lmms.towers import Patches, Tower

# What a token method may request from the model, see `Context`.
Need = Literal["attention", "keys", "pixels"]
ATTENTION: frozenset[Need] = frozenset({"attention", "keys"})  # these come from the tower's last layer

S = TypeVar("S", bound="State")


class State:
    """State of a method in one stream; a dataclass."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held."""
        return sum(getattr(value, "nbytes", 0) for value in vars(self).values())


@dataclass
class TowerState(State):
    """State of an in-tower method, with the counts of the efficiency record."""

    frames: int = 0
    tokens_seen: int = 0
    tokens_recomputed: int = 0

    def count(self, frames: int, seen: int, recomputed: int) -> None:
        """Add frames with `seen` tokens each, of which `recomputed` passed through every layer."""
        self.frames += frames
        self.tokens_seen += frames * seen
        self.tokens_recomputed += frames * recomputed

    def reset(self) -> None:
        """Return to the start of a stream; allocated memory may be reused."""
        self.frames = self.tokens_seen = self.tokens_recomputed = 0


class TowerMethod(ABC):
    """Replaces the encoding of a vision tower."""

    state_class: ClassVar[type[TowerState]] = TowerState

    def open_state(self) -> TowerState:
        """State of a new stream."""
        return self.state_class()

    @abstractmethod
    def encode(
        self, tower: Tower, x: Tensor | Patches, state: TowerState, *, taps: list[Tensor] | None = None
    ) -> Tensor:
        """Features [F,T,D] of the next F frames of the stream; updates `state` in place.

        Must be causal, and must not depend on how a stream is split into calls.

        Args:
            tower: the vision tower.
            x: the input of `tower.embed`.
            state: the stream's state.
            taps: if given, the hidden states [F,T,D] after the blocks `tower.taps` are appended to it.

        Raises:
            StcError: the input or the method does not fit the tower.
        """

    def role(self, state: TowerState) -> str | None:
        """Role of the next single frame, if the host knows it before encoding; else None.

        A method with roles has `begin`, `run` and `commit` as in `STCCacher`.
        """
        return None

    def check(self, group: int) -> None:  # noqa: B027 - most methods fit every tower
        """Raise `SettingsError` if the hyper-parameters do not fit a tower with this `Layout.group`."""

    @property
    def budget(self) -> BudgetKind:
        """How the token budget is met, see `budget.py`; most tower methods have none."""
        return "none"

    def output_grid(self, grid: tuple[int, int]) -> tuple[int, int] | None:
        """Rows and columns of the output of `encode`, for a tower with `grid` patches.

        None: it is no grid (merged tokens), so the model projects each token to one LLM token, unpooled.
        """
        return grid

    def check_budget(self, grid: tuple[int, int], layers: int) -> None:  # noqa: B027 - most have no budget
        """Raise `SettingsError` if a tower of `grid` patches and `layers` layers cannot meet the budget."""


@dataclass(frozen=True)
class Context:
    """Inputs of a token method besides the tokens.

    Attributes:
        times_s: time stamp of each frame, in seconds.
        grid: rows and columns of the tokens of a frame; None: unknown.
        attention_FN: attention that each token's patches receive in the last tower layer used, mean over
            heads and queries, resized like the tokens; float32. Only for methods that need `attention`.
        keys_FNE: keys of that layer, mean over heads, resized like the tokens. Only for `keys`.
        pixels_FCHW: the tower's pixel values. Only for `pixels`.
    """

    times_s: tuple[float, ...] = ()
    grid: tuple[int, int] | None = None
    attention_FN: Tensor | None = None
    keys_FNE: Tensor | None = None
    pixels_FCHW: Tensor | None = None


@dataclass(frozen=True)
class Compressed:
    """Result of a token method for the G frames that it returns (with delay, not the F frames of the call).

    Attributes:
        tokens_MD: the kept or merged tokens of all frames, in frame order.
        kept_M: int64 index of each in the flattened [G*N] tokens of those frames.
        tokens_per_frame: for each of the G frames; sums to M.
    """

    tokens_MD: Tensor
    kept_M: Tensor
    tokens_per_frame: tuple[int, ...] = field(default=())


def whole(tokens_FND: Tensor) -> Compressed:
    """All tokens of the frames."""
    frames, tokens, _ = tokens_FND.shape
    kept_M = torch.arange(frames * tokens, device=tokens_FND.device)
    return Compressed(tokens_FND.flatten(0, 1), kept_M, (tokens,) * frames)


class TokenMethod(ABC, Generic[S]):
    """Chooses or makes the LLM tokens of each frame."""

    state_class: ClassVar[type[State]] = State

    @property
    def budget(self) -> BudgetKind:
        """How the token budget is met, see `budget.py`."""
        return "per frame"

    @property
    def needs(self) -> frozenset[Need]:
        """What `Context` must contain; the model computes nothing else."""
        return frozenset()

    @property
    def delay_frames(self) -> int:
        """Maximum number of frames that are held back until later ones arrive."""
        return 0

    def open_state(self) -> S:
        """State of a new stream."""
        return self.state_class()

    @abstractmethod
    def compress(self, tokens_FND: Tensor, context: Context, state: S) -> tuple[Compressed, S]:
        """Compress the tokens [F,N,D] of the next F frames.

        Pure: the new state is returned, `state` is not modified. Must be causal, and must not depend on how
        a stream is split into calls.
        """

    def pending(self, state: S) -> Compressed | None:
        """The frames held back, compressed as if the stream ended now; None if there are none.

        A question sees them after the stream; the stream's state does not change.
        """
        return None

    def check(self, tokens_per_frame: int) -> None:
        """Raise `SettingsError` if the hyper-parameters do not fit this number of tokens per frame."""
