"""The budget rule, the same for every method.

A budget of k means k LLM tokens per frame. A method keeps it in one of two ways, and says which:

- `per frame`: every frame gives exactly k tokens, so the maximum is the mean.
- `on average`: after any number T of frames the total is less than one dense frame (N tokens) away from
  T * k. Single frames may have any number, none included; tables show mean and maximum.

A method without a budget says `none`.
A budget that a method cannot keep is refused before any weight is loaded, and the nearest one that it can
keep is named.
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


def holds(kind: BudgetKind, kept: Sequence[int], budget: int, dense: int) -> bool:
    """Whether a stream keeps the rule.

    Args:
        kind: what the method promises.
        kept: tokens of each frame so far, held-back frames included.
        budget: k.
        dense: tokens of a frame without compression (N).
    """
    if kind == "per frame":
        return all(count == budget for count in kept)
    if kind == "on average":
        return abs(sum(kept) - len(kept) * budget) < dense
    return True


def at_least_one(budget: int) -> None:
    """Refuse a budget below one token.

    Raises:
        SettingsError: it is.
    """
    if budget < 1:
        raise SettingsError(f"token_budget={budget} must be at least 1")


def within(budget: int, dense: int) -> None:
    """Refuse a budget that a frame cannot fill.

    Raises:
        SettingsError: it is above `dense`, the tokens of a frame.
    """
    if budget > dense:
        raise SettingsError(
            f"token_budget={budget} is more than the {dense} tokens a frame has; "
            f"the nearest that works is {dense}"
        )


def one_of(budget: int, possible: Iterable[int], why: str) -> None:
    """Refuse a budget that is not among the possible ones.

    Args:
        budget: k.
        possible: every budget that the method can keep.
        why: what limits it, as the end of a sentence.

    Raises:
        SettingsError: k is not possible; names the nearest one or two.
    """
    possible = set(possible)
    if budget not in possible:
        gap = min(abs(p - budget) for p in possible)
        nearest = " or ".join(str(p) for p in sorted(possible) if abs(p - budget) == gap)
        raise SettingsError(
            f"token_budget={budget} cannot be met: {why}; the nearest that works is {nearest}"
        )


def share_out(wanted: Sequence[float], total: int, least: int = 0, most: int | None = None) -> list[int]:
    """Whole numbers close to `wanted` that sum to `total`: the largest remainders are rounded up.

    Args:
        wanted: ideal shares; of equal remainders the earlier goes first.
        total: sum of the result.
        least: no share is below this.
        most: no share is above this; None is no limit.

    Raises:
        ValueError: no such numbers exist.
    """
    most = total if most is None else most
    if not len(wanted) * least <= total <= len(wanted) * most:
        raise ValueError(f"{total} cannot be shared among {len(wanted)} with {least} to {most} each")
    shares = [min(max(int(w), least), most) for w in wanted]
    while (left := total - sum(shares)) != 0:
        step = 1 if left > 0 else -1
        open_ = [i for i, s in enumerate(shares) if least <= s + step <= most]
        open_.sort(key=lambda i: step * (shares[i] - wanted[i]))  # stable: the furthest from its ideal first
        for i in open_[: abs(left)]:
            shares[i] += step
    return shares


@dataclass(frozen=True)
class Budgeted:
    """Argument and checks of a token method that keeps a budget; list it before `TokenMethod`.

    Args:
        token_budget: LLM tokens kept per frame.
    """

    token_budget: int = 64

    def __post_init__(self):
        """Check the range."""
        at_least_one(self.token_budget)

    def check(self, tokens_per_frame: int) -> None:
        """Refuse a budget that a frame cannot fill."""
        within(self.token_budget, tokens_per_frame)
