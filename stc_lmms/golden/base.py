"""What every check of a golden case gives back, and what they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_lmms.errors import DataError

Case = Mapping[str, Any]


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
