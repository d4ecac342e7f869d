"""A sweep on disk: one folder with the plan, and a folder for every job.

sweep.json                       the plan, written once
lease                            which process is starting jobs, see `lease.py`
slurm.json, slurm_options.json   submitted arrays, and how to submit more
slurm/*.sbatch, slurm/*.log
jobs/<recipe>/<task>/<shard>/
    lease, shard.json            which process runs the job; its videos
    status.json                  state, heartbeat, progress
    log.txt
    out/                         lmms-eval's output path, with the journal
merged/<recipe>/                 the results as those of one unsharded run
leaderboard/
"""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_lmms.errors import StcError
from stc_lmms.results.write import write_text
from stc_lmms.sweep.lease import is_free

VERSION = 1  # of the plan in `sweep.json`
HEARTBEAT_S = 10
LOST_S = 12 * HEARTBEAT_S  # a running job without a heartbeat for so long is dead


def write_json(path: Path, content: Any) -> None:
    """Replace a file in one step, see `write_text`."""
    write_text(path, json.dumps(content) + "\n")


def read_json(path: Path) -> Any:
    """The content of a file; None if it does not exist."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StcError(f"{path} is not readable ({' '.join(str(error).split())})") from None


@dataclass(frozen=True)
class SweepJob:
    """One recipe on one shard of one task."""

    index: int  # position in the plan, and in a Slurm array
    recipe: str
    task: str
    shard: int
    leaves: dict[str, str]  # tasks that lmms-eval evaluates, with their keys in the shard file
    videos: dict[str, list[str]]  # the shard's videos by key, as the shard file lists them
    streams: list[int]  # frames of every clip it plays, see `shards.Load`
    rounds: int  # number of questions and polls
    path: Path  # its folder

    @property
    def name(self) -> str:
        """Unique in the sweep."""
        return f"{self.recipe}/{self.task}/{self.shard:03d}"

    @property
    def out(self) -> Path:
        """Output path of its lmms-eval."""
        return self.path / "out"

    @property
    def cost(self) -> int:
        """Frames plus rounds, see `shards.Load`."""
        return sum(self.streams) + self.rounds

    @property
    def rows(self) -> int:
        """Number of requests: one for every video in every leaf."""
        return sum(map(len, self.videos.values()))

    def status(self) -> dict[str, Any]:
        """The content of its status file, with defaults before it first ran; a dead job is `lost`."""
        found = {"state": "waiting", "attempt": 0, "rows": 0, "seconds": 0.0, "reason": ""}
        found |= read_json(self.path / "status.json") or {}
        if found["state"] == "running":
            ended = found["host"] == socket.gethostname() and is_free(self.path / "lease")
            if ended or time.time() - found["heartbeat"] > LOST_S:
                reason = f"killed, or its disk was full, or its machine {found['host']} is gone"
                found |= {"state": "lost", "reason": reason}
        return found

    def set_status(self, **content: Any) -> None:
        """Replace the status file."""
        write_json(self.path / "status.json", content)


class Sweep:
    """The existing sweep in a folder.

    Raises:
        StcError: the folder holds no sweep, or one of another version.
    """

    def __init__(self, root: Path):
        self.root = root
        self.plan: dict[str, Any] = read_json(root / "sweep.json")
        if self.plan is None:
            raise StcError(f"{root} holds no sweep; start one with stc-lmms sweep SWEEP.yaml")
        if self.plan.get("version") != VERSION:
            raise StcError(f"{root} holds a sweep of another version of stc-lmms; use a new output folder")

    @property
    def jobs(self) -> Iterator[SweepJob]:
        """All jobs, created one at a time."""
        for index in range(len(self.plan["jobs"])):
            yield self.job(index)

    def job(self, index: int) -> SweepJob:
        """The job at a position in the plan."""
        if not 0 <= index < len(self.plan["jobs"]):
            raise StcError(f"{self.root} has no job {index}; its jobs are 0 to {len(self.plan['jobs']) - 1}")
        found = self.plan["jobs"][index]
        path = self.root / "jobs" / found["recipe"] / found["task"] / f"{found['shard']:03d}"
        return SweepJob(index=index, path=path, **found)


def create(root: Path, plan: dict[str, Any]) -> Sweep:
    """Write the plan of a new sweep, or open an existing sweep with the same plan.

    Raises:
        StcError: the folder holds another sweep, or cannot be written.
    """
    existing = read_json(root / "sweep.json")
    if existing is None:
        write_json(root / "sweep.json", plan)
    elif existing != plan:
        differs = ", ".join(key for key in plan if existing.get(key) != plan[key])
        raise StcError(f"{root} holds another sweep (its {differs} differ); choose another output folder")
    return Sweep(root)
