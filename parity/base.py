"""Results of golden cases, and helpers shared by their checks."""

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
    """The case cannot be run here; the message is a short reason."""


@dataclass(frozen=True)
class CaseResult:
    """Outcome of one case.

    Attributes:
        max_error: the largest deviation; for exact data the number of differing values.
        tolerance: the allowed deviation.
        passed: whether the case passed.
        detail: what was compared, or what is wrong, in one line.
    """

    max_error: float
    tolerance: float
    passed: bool
    detail: str


def tensor_file(case_path: Path) -> Path:
    """The tensors of a case: the file next to its JSON.

    Raises:
        DataError: it is missing.
    """
    path = case_path.with_suffix(".safetensors")
    if not path.is_file():
        raise DataError(f"{path.name} is missing next to {case_path.name}")
    return path


def distance(got: "Tensor", expected: "Tensor") -> float:
    """Largest absolute difference; infinite when the shapes differ."""
    if got.shape != expected.shape:
        return math.inf
    return (got.double() - expected.double()).abs().max().item() if got.numel() else 0.0


def worst(errors: Iterable[float]) -> float:
    """The largest error; a NaN counts as infinite."""
    return max(math.inf if math.isnan(error) else error for error in errors)
