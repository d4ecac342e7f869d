"""`stc-lmms data verify`: find missing, undecodable, truncated and too short videos."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stc_lmms.data.roots import video_path
from stc_lmms.errors import DataError, VideoError

# Containers round durations, and question times are rounded up to the next second.
TOLERANCE_S = 1.0
_MAX_WORKERS = 8

Kind = Literal["missing", "undecodable", "cut", "short"]
_TITLES: dict[Kind, str] = {
    "missing": "missing",
    "undecodable": "cannot be decoded",
    "cut": "truncated",
    "short": "shorter than the last question",
}


@dataclass(frozen=True)
class VideoProblem:
    """A video that cannot be evaluated: its first candidate path, and one line for the user."""

    video: str
    kind: Kind
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of `verify`: number of needed videos, and the problems in annotation order."""

    benchmark: str
    root: Path
    videos: int
    problems: tuple[VideoProblem, ...]

    @property
    def ok(self) -> bool:
        """True if there are videos and none has a problem."""
        return self.videos > 0 and not self.problems

    def count(self, kind: Kind) -> int:
        """Number of videos with this problem."""
        return sum(problem.kind == kind for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "benchmark": self.benchmark,
            "root": str(self.root),
            "ok": self.ok,
            "videos": self.videos,
            "good": self.videos - len(self.problems),
            **{kind: self.count(kind) for kind in _TITLES},
            "problems": [asdict(problem) for problem in self.problems],
        }

    def text(self, listed: int = 20) -> str:
        """The report as plain text, with at most `listed` problems of a kind."""
        good = self.videos - len(self.problems)
        lines = [f"{self.benchmark}: {good} of {self.videos} videos are good ({self.root})"]
        for kind, title in _TITLES.items():
            found = [problem for problem in self.problems if problem.kind == kind]
            if not found:
                continue
            lines.append(f"{len(found)} {title}:")
            lines += [f"  {problem.video}: {problem.reason}" for problem in found[:listed]]
            if len(found) > listed:
                lines.append(f"  ... and {len(found) - listed} more")
        return "\n".join(lines)


def verify(
    benchmark: str, root: Path, rows: Iterable[tuple[Sequence[str], float]], probe: Callable[[Path], Any]
) -> VerifyReport:
    """Check every video of a benchmark; a bad one does not stop the others.

    Args:
        benchmark: name for the report.
        root: the data root.
        rows: candidate paths of a video relative to the root (the first one names it in the report), and the
            second up to which it is needed. Rows with the same first candidate are one video, needed up to
            the latest of their times.
        probe: see `video.decode.probe`; called from several threads.
    """
    from tqdm import tqdm

    needed: dict[str, tuple[Sequence[str], float]] = {}
    for candidates, until_s in rows:
        earlier_s = needed.get(candidates[0], (candidates, 0.0))[1]
        needed[candidates[0]] = (candidates, max(earlier_s, until_s))

    check = partial(_check_video, root, probe)
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        outcomes = pool.map(check, needed.values())
        shown = tqdm(outcomes, f"{benchmark} videos", len(needed), unit="video", disable=None)
        problems = tuple(problem for problem in shown if problem is not None)
    return VerifyReport(benchmark, root, len(needed), problems)


def _check_video(
    root: Path, probe: Callable[[Path], Any], row: tuple[Sequence[str], float]
) -> VideoProblem | None:
    candidates, until_s = row
    problem = partial(VideoProblem, candidates[0])
    try:
        path = video_path(root, candidates)
    except DataError as error:
        return problem("missing", str(error))
    if path is None:
        return problem("missing", f"looked for {', '.join(candidates)}")
    try:
        found = probe(path)
    except (VideoError, OSError) as error:
        return problem("undecodable", " ".join(str(error).split()) or type(error).__name__)
    duration_s = found.duration_s
    if duration_s is None:
        return problem("undecodable", "its duration is unknown; convert it again")
    if not math.isfinite(duration_s) or duration_s <= 0:
        return problem("undecodable", f"invalid duration: {duration_s} s")
    if found.cut_short:
        return problem("cut", f"{found.cut_short}; needed until {until_s:.1f} s")
    if duration_s < until_s - TOLERANCE_S:
        return problem("short", f"lasts {duration_s:.1f} s but is needed until {until_s:.1f} s")
    return None
