"""The sample files that lmms-eval writes: one line per video, with the values its metrics aggregate."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stc_lmms.results.read import newest_run
from stc_lmms.sweep.folder import SweepJob


def newest(out: Path, leaf: str) -> Path | None:
    """The sample file of a task's newest run in an output path; file names begin with the time."""
    return max(out.glob(f"*/*_samples_{leaf}.jsonl"), key=lambda path: path.name, default=None)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of a file, one at a time."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)


def count(path: Path) -> int:
    """Number of complete samples; a line cut short by a full disk is none."""
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") for line in file)


def missing(job: SweepJob) -> str:
    """What a job that ended well has failed to write, in one line; lmms-eval only warns of a full disk."""
    for leaf, key in job.leaves.items():
        rows = len(job.videos[key])
        path = newest(job.out, leaf)
        found = count(path) if path else 0
        if found != rows:
            return f"{found} of {rows} samples of {leaf} exist; is the disk full, or were they deleted?"
    if newest_run(job.out) is None:
        return f"{job.out} has no record of a run; is the disk full, or was it deleted?"
    return ""
