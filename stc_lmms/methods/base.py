"""The contracts of compression methods.

A method is a frozen dataclass of hyper-parameters; its fields are model arguments. It keeps nothing:
what a stream has left behind lives in a state object that the stream owns.

Shapes: F frames, N tokens per frame before a token method, M kept tokens of all frames, T tower tokens,
D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from stc_lmms.lazy import Tensor, torch
from stc_lmms.methods.budget import BudgetKind

if TYPE_CHECKING:
    from stc_lmms.towers import Patches, Tower

# What a token method may ask the model for, see `Context`.
Need = Literal["attention", "keys", "pixels"]
ATTENTION: frozenset[Need] = frozenset({"attention", "keys"})  # these come from the tower's last layer

S = TypeVar("S", bound="State")


class State:
    """What one stream has left in a method."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held."""
        return 0


@dataclass
class TowerState(State):
    """State of an in-tower method, with the counts that the efficiency record needs."""

    frames: int = 0
    tokens_seen: int = 0
    tokens_recomputed: int = 0

    def reset(self) -> None:
        """Back to the start of a stream; memory may be kept for the next one."""
        self.frames = self.tokens_seen = self.tokens_recomputed = 0


class TowerMethod(ABC):
    """Runs a vision tower in its own way."""

    @abstractmethod
    def open_state(self) -> TowerState:
        """State of a new stream."""

    @abstractmethod
    def encode(
        self, tower: Tower, x: Tensor | Patches, state: TowerState, *, taps: list[Tensor] | None = None
    ) -> Tensor:
        """Features [F,T,D] of the next F frames of the stream; updates `state` in place.

        Must be causal, and must not depend on how a stream is cut into calls.

        Args:
            tower: runs the frames.
            x: what `tower.embed` takes: pixel values [F,3,S,S], or the patches of F temporal slices.
            state: what the stream has left so far.
            taps: if given, the hidden states [F,T,D] behind the blocks `tower.taps` are appended to it.

        Raises:
            StcError: the input does not fit the tower, or the method does not fit it.
        """

    def role(self, state: TowerState) -> str | None:
        """What the next single frame is, if the host can tell before it looks at it; else None.

        A method that can tell has `begin`, `run` and `commit` as `STCCacher` has them: the device side of a
        frame is `run`, the same kernels on the same addresses for every frame of a role.
        """
        return None

    def check(self, group: int) -> None:  # noqa: B027 - most methods fit every tower
        """Raise `SettingsError` if the hyper-parameters do not fit a tower.

        Args:
            group: `Layout.group` of the tower, 1 where it does not merge tokens.
        """

    @property
    def budget(self) -> BudgetKind:
        """How a token budget is kept, see `budget.py`; most tower methods have none."""
        return "none"

    def output_grid(self, grid: tuple[int, int]) -> tuple[int, int] | None:
        """Rows and columns of the patches that `encode` gives, for a tower with `grid` patches.

        None: they lie on no grid (merged tokens). The model then projects them without pooling, and each
        is one LLM token.
        """
        return grid

    def check_budget(self, grid: tuple[int, int], layers: int) -> None:  # noqa: B027 - most have no budget
        """Raise `SettingsError` if a tower of `grid` patches and so many layers cannot keep the budget."""


@dataclass(frozen=True)
class Context:
    """What a token method may look at besides the tokens.

    Attributes:
        times_s: time stamp of each frame, in seconds.
        grid: rows and columns of the tokens of a frame; None: not known.
        attention_FN: attention that each token's patches receive in the last tower layer used, mean over
            heads and queries, resized like the tokens; float32. Only for methods that need `attention`.
        keys_FNE: keys of that layer, mean over heads, resized like the tokens. Only for `keys`.
        pixels_FCHW: the pixel values that the tower got. Only for `pixels`.
    """

    times_s: tuple[float, ...] = ()
    grid: tuple[int, int] | None = None
    attention_FN: Tensor | None = None
    keys_FNE: Tensor | None = None
    pixels_FCHW: Tensor | None = None


@dataclass(frozen=True)
class Compressed:
    """Result of a token method for the G frames that it gives out, F or those it held back till now.

    Attributes:
        tokens_MD: the kept or merged tokens of all frames, in frame order.
        kept_M: int64 indices in the flattened [G*N] tokens of those frames; of a merged token, the place
            where it stands.
        tokens_per_frame: how many of them belong to each of the G frames; sums to M.
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

    @property
    def budget(self) -> BudgetKind:
        """How the token budget is kept, see `budget.py`."""
        return "per frame"

    @property
    def needs(self) -> frozenset[Need]:
        """What `Context` must hold; the model computes nothing else."""
        return frozenset()

    @property
    def delay_frames(self) -> int:
        """At most so many frames are held back until later ones have come."""
        return 0

    @abstractmethod
    def open_state(self) -> S:
        """State of a new stream."""

    @abstractmethod
    def compress(self, tokens_FND: Tensor, context: Context, state: S) -> tuple[Compressed, S]:
        """Compress the tokens [F,N,D] of the next F frames.

        Pure: `state` is not changed, the new one is returned. Must be causal, and must not depend on
        how a stream is cut into calls.
        """

    def pending(self, state: S) -> Compressed | None:
        """The frames held back, as they would be if the stream ended now; None if there are none.

        A question sees them behind the stream; the stream stays as it was.
        """
        return None

    def check(self, tokens_per_frame: int) -> None:
        """Raise `SettingsError` if the hyper-parameters do not fit a model with so many tokens a frame."""
