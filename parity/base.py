"""What every check of a golden case gives back, and what they share."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stc_lmms.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Case = Mapping[str, Any]


class SkipCase(Exception):
    """The case cannot be run here; the message is the reason, in one short line."""


@dataclass(frozen=True)
class CaseResult:
    """Outcome of one case.

    Attributes:
        max_error: the largest deviation; for exact data the number of values that differ.
        tolerance: what is allowed.
        passed: whether the case holds.
        detail: one line: what was compared, or what is wrong.
    """

    max_error: float
    tolerance: float
    passed: bool
    detail: str


def tensor_file(case_path: Path) -> Path:
    """The tensors of a case: the file beside its json.

    Raises:
        DataError: it is not there.
    """
    path = case_path.with_suffix(".safetensors")
    if not path.is_file():
        raise DataError(f"{path.name} is missing beside {case_path.name}")
    return path


def distance(got: "Tensor", wanted: "Tensor") -> float:
    """Largest absolute difference; infinite when the shapes differ."""
    if got.shape != wanted.shape:
        return math.inf
    return (got.double() - wanted.double()).abs().max().item() if got.numel() else 0.0


def worst(errors: Iterable[float]) -> float:
    """The largest error; a NaN counts as infinite."""
    return max(math.inf if math.isnan(error) else error for error in errors)
