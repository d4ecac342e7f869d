"""The budget rule, the same for every method.

A budget of k means k LLM tokens per frame. A method meets it in one of two ways:

- `per frame`: every frame has exactly k tokens, so the maximum is the mean.
- `on average`: after any number T of frames the total is less than one dense frame (N tokens) away from
  T * k. Single frames may have any number, including none; tables show mean and maximum.

A method without a budget has the kind `none`.
A budget that a method cannot meet is refused before any weight is loaded, with the nearest possible one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from stc_lmms.errors import SettingsError

BudgetKind = Literal["per frame", "on average", "none"]


@dataclass(frozen=True)
class Usage:
    """Tokens per frame of a stream: mean and maximum."""

    mean: float
    maximum: int


def usage(kept: Sequence[int]) -> Usage:
    """Mean and maximum of the tokens kept per frame; zeros for an empty stream."""
    return Usage(sum(kept) / len(kept), max(kept)) if kept else Usage(0.0, 0)


def within(budget: int, dense: int) -> None:
    """Raise `SettingsError` for a budget above `dense`, the tokens of a frame."""
    if budget > dense:
        raise SettingsError(
            f"token_budget={budget} is more than the {dense} tokens a frame has; "
            f"the nearest that works is {dense}"
        )


def one_of(budget: int, possible: Iterable[int], why: str) -> None:
    """Raise `SettingsError`, with the nearest possible budgets, for one that is not among `possible`."""
    possible = set(possible)
    if budget not in possible:
        gap = min(abs(p - budget) for p in possible)
        nearest = " or ".join(str(p) for p in sorted(possible) if abs(p - budget) == gap)
        raise SettingsError(
            f"token_budget={budget} cannot be met: {why}; the nearest that works is {nearest}"
        )


def share_out(ideal: Sequence[float], total: int, least: int = 0, most: int | None = None) -> list[int]:
    """Integers from `least` to `most` close to `ideal` that sum to `total`.

    The largest remainders are rounded up, of equal ones the earlier.

    Raises:
        ValueError: no such numbers exist.
    """
    most = total if most is None else most
    if not len(ideal) * least <= total <= len(ideal) * most:
        raise ValueError(f"{total} cannot be divided into {len(ideal)} shares of {least} to {most}")
    shares = [min(max(int(x), least), most) for x in ideal]
    while (left := total - sum(shares)) != 0:
        step = 1 if left > 0 else -1
        open_ = [i for i, s in enumerate(shares) if least <= s + step <= most]
        open_.sort(key=lambda i: step * (shares[i] - ideal[i]))  # stable: the furthest from the ideal first
        for i in open_[: abs(left)]:
            shares[i] += step
    return shares


@dataclass(frozen=True)
class PerFrame:
    """A method with a budget per frame; list it before the base class.

    Args:
        token_budget: LLM tokens kept per frame.
    """

    token_budget: int = 64

    def __post_init__(self):
        if self.token_budget < 1:
            raise SettingsError(f"token_budget={self.token_budget} must be at least 1")

    @property
    def budget(self) -> BudgetKind:
        return "per frame"


@dataclass(frozen=True)
class Budgeted(PerFrame):
    """A token method with a budget per frame; list it before `TokenMethod`."""

    def check(self, tokens_per_frame: int) -> None:
        """Refuse a budget that a frame cannot fill."""
        within(self.token_budget, tokens_per_frame)
