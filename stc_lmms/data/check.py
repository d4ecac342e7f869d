"""`stc-lmms data verify`: is every video of a benchmark there, readable, whole and long enough?"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from stc_lmms.data.roots import video_path
from stc_lmms.errors import DataError, VideoError

# Containers round durations, and annotators round question times up to the next second.
TOLERANCE_S = 1.0
_MAX_WORKERS = 8
_LISTED = 20

Kind = Literal["missing", "undecodable", "cut", "short"]
_TITLES: dict[Kind, str] = {
    "missing": "missing",
    "undecodable": "cannot be decoded",
    "cut": "not whole",
    "short": "shorter than the last question",
}


class Probed(Protocol):
    """What a probe returns."""

    @property
    def duration_s(self) -> float | None:
        """Length that can be read, in seconds; None if it is not known."""
        ...

    @property
    def cut_short(self) -> str:
        """Why this is not the length of the whole video, in one line; "" if it is."""
        ...


@dataclass(frozen=True)
class VideoProblem:
    """One video that cannot be evaluated as it is.

    Attributes:
        video: Its path in the annotations.
        kind: What is wrong.
        reason: One line for the user.
    """

    video: str
    kind: Kind
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of `verify`.

    Attributes:
        benchmark: Benchmark name.
        root: Folder that was checked.
        videos: Number of different videos the annotations need.
        problems: In annotation order.
    """

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
        """Everything, for JSON."""
        return {
            "benchmark": self.benchmark,
            "root": str(self.root),
            "ok": self.ok,
            "videos": self.videos,
            "good": self.videos - len(self.problems),
            **{kind: self.count(kind) for kind in _TITLES},
            "problems": [asdict(problem) for problem in self.problems],
        }

    def text(self, listed: int = _LISTED) -> str:
        """Plain text for a terminal.

        Args:
            listed: Problems of one kind that are listed; the rest is counted.
        """
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
    benchmark: str,
    root: Path,
    rows: Iterable[tuple[Sequence[str], float]],
    probe: Callable[[Path], Probed],
    progress: bool = True,
) -> VerifyReport:
    """Check every video of a benchmark; a bad one never stops the rest.

    Args:
        benchmark: Name for the report.
        root: Folder of `benchmark_root`.
        rows: For each question or video: where the video may lie relative to the root (best first; the first
            one names it in the report), and the time in seconds up to which it is needed. Rows with the same
            first candidate count as one video, needed up to the latest of their times.
        probe: Opens a video; raises VideoError if that fails. Called from several threads.
        progress: Show a progress bar.

    Returns:
        The report, in the order of `rows`.
    """
    from tqdm import tqdm

    needed: dict[str, tuple[Sequence[str], float]] = {}
    for candidates, until_s in rows:
        if not candidates:
            raise ValueError("a row of verify() has no candidate path")
        earlier_s = needed.get(candidates[0], (candidates, 0.0))[1]
        needed[candidates[0]] = (candidates, max(earlier_s, until_s))

    check = partial(_check_video, root, probe)
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        outcomes = list(
            tqdm(
                pool.map(check, needed.values()),
                total=len(needed),
                desc=f"{benchmark} videos",
                unit="video",
                disable=None if progress else True,
            )
        )
    problems = tuple(problem for problem in outcomes if problem is not None)
    return VerifyReport(benchmark, root, len(needed), problems)


def _check_video(
    root: Path, probe: Callable[[Path], Probed], row: tuple[Sequence[str], float]
) -> VideoProblem | None:
    candidates, until_s = row
    video = candidates[0]
    try:
        path = video_path(root, candidates)
    except DataError as error:
        return VideoProblem(video, "missing", str(error))
    if path is None:
        return VideoProblem(video, "missing", f"looked for {', '.join(candidates)}")
    try:
        found = probe(path)
    except (VideoError, OSError) as error:
        return VideoProblem(video, "undecodable", " ".join(str(error).split()) or type(error).__name__)
    duration_s = found.duration_s
    if duration_s is None:
        return VideoProblem(video, "undecodable", "its length cannot be told; convert it again")
    if not math.isfinite(duration_s) or duration_s <= 0:
        return VideoProblem(video, "undecodable", f"its duration reads {duration_s} s")
    if found.cut_short:
        return VideoProblem(video, "cut", f"{found.cut_short}; needed until {until_s:.1f} s")
    if duration_s < until_s - TOLERANCE_S:
        return VideoProblem(video, "short", f"lasts {duration_s:.1f} s but is needed until {until_s:.1f} s")
    return None
