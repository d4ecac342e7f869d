"""Find and check recorded cases of the original implementations.

A case is any JSON file with `"golden": {"area", "kind"}`; it also describes the case and states the
tolerance.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from parity.base import Case, CaseResult, SkipCase
from stc_lmms.errors import DataError
from stc_lmms.suggest import unknown

logger = logging.getLogger(__name__)

NOT_IMPLEMENTED = "area not implemented"

# area -> module with `run_case`; an area not listed here is reported as skipped
AREAS = {
    "cacher": "parity.cacher",
    "pruner": "parity.pruner",
    "rekv": "parity.rekv",
    "dycoke": "parity.dycoke",
    "streamdycoke": "parity.streamdycoke",
    "tome": "parity.tome",
    "visionzip": "parity.visionzip",
    "vidcom2": "parity.vidcom2",
    "benchmarks": "parity.benchmarks",
    "livecc": "parity.livecc",
    "dispider": "parity.dispider",
    "streamforest": "parity.streamforest",
}


@dataclass(frozen=True)
class Outcome:
    """One case: `result` is None when it was skipped, for the reason `skipped`."""

    area: str
    kind: str
    case: str
    result: CaseResult | None
    skipped: str = ""

    def line(self) -> str:
        """A readable line."""
        if self.result is None:
            return f"SKIP  {self.area:<11} {self.case:<40} {self.skipped}"
        state = "pass" if self.result.passed else "FAIL"
        numbers = f"max error {self.result.max_error:.2e}  tolerance {self.result.tolerance:.0e}"
        return f"{state}  {self.area:<11} {self.case:<40} {numbers}  {self.result.detail}"


def verify(folder: Path, areas: Sequence[str] | None = None, dtype: str = "float32") -> Iterator[Outcome]:
    """Check every case below `folder`, in the order of areas and names.

    Args:
        folder: searched recursively.
        areas: only these; None for all.
        dtype: `float32` or `float64` arithmetic.

    Raises:
        DataError: no such folder, no case in it, or an unknown area.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give one with <area>/<case>.json")
    cases = dict(_find(folder))
    present = {case["golden"]["area"] for case in cases.values()}
    for area in areas or ():
        if area not in present | set(AREAS):
            raise DataError(unknown("area", area, present | set(AREAS)))
    chosen = {path: case for path, case in cases.items() if not areas or case["golden"]["area"] in areas}
    if not chosen:
        raise DataError(f"no golden case{' of ' + ', '.join(areas) if areas else ''} below {folder}")
    for path, case in sorted(chosen.items(), key=lambda item: (item[1]["golden"]["area"], str(item[0]))):
        area = case["golden"]["area"]
        siblings = [c for p, c in cases.items() if p != path and c["golden"]["area"] == area]
        result, reason = None, NOT_IMPLEMENTED
        if area in AREAS:
            try:
                result, reason = _run(area, case, path, siblings, dtype), ""
            except SkipCase as skip:
                reason = str(skip)
        yield Outcome(area, str(case["golden"].get("kind")), path.stem, result, reason)


def _find(folder: Path) -> Iterator[tuple[Path, Case]]:
    for path in sorted(folder.rglob("*.json")):
        try:
            case = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as JSON ({error}); copy it again") from error
        if isinstance(case, dict) and isinstance(case.get("golden"), dict) and "area" in case["golden"]:
            yield path, case


def _run(area: str, case: Case, path: Path, siblings: list[Case], dtype: str) -> CaseResult:
    import torch

    run_case: Callable[..., CaseResult] = import_module(AREAS[area]).run_case
    try:
        with torch.no_grad():
            return run_case(case, path, siblings, getattr(torch, dtype))
    except SkipCase:
        raise
    except Exception as error:  # a broken case is a failed case, not the end of the run
        logger.debug("traceback", exc_info=True)
        return CaseResult(
            float("inf"), 0.0, False, f"stopped by {type(error).__name__}: {' '.join(str(error).split())}"
        )


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts and all cases as JSON values; an infinite error (the case raised an exception) is None."""
    results = [o.result for o in outcomes]
    return {
        "passed": sum(r is not None and r.passed for r in results),
        "failed": sum(r is not None and not r.passed for r in results),
        "skipped": sum(r is None for r in results),
        "cases": [
            {"area": o.area, "kind": o.kind, "case": o.case}
            | (_plain(o.result) if o.result else {"skipped": True, "reason": o.skipped})
            for o in outcomes
        ],
    }


def last_line(outcomes: Sequence[Outcome]) -> str:
    """A readable line with the counts, and the reasons why cases were skipped."""
    reasons = sorted({o.skipped for o in outcomes if o.result is None}) or [NOT_IMPLEMENTED]
    return "{passed} passed, {failed} failed, {skipped} skipped".format(**summary(outcomes)) + (
        f" ({'; '.join(reasons)})"
    )


def _plain(result: CaseResult) -> dict[str, Any]:
    return asdict(result) | ({} if math.isfinite(result.max_error) else {"max_error": None})
