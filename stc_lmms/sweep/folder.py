"""A sweep on disk: one folder with the plan, and a folder for every job.

sweep.json                       the plan, written once
lease                            who is starting jobs, see `lease.py`
slurm.json                       arrays that were submitted
slurm/*.sbatch, slurm/*.log
jobs/<recipe>/<task>/<shard>/
    lease, shard.json            who runs it; its videos
    status.json                  state, heartbeat, progress
    log.txt
    out/                         lmms-eval's output path, with the journal
merged/<recipe>/<task>/          one unsharded run, as the reports read it
leaderboard/
"""

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_lmms.errors import StcError
from stc_lmms.sweep.files import read_json, write_json
from stc_lmms.sweep.lease import is_free
from stc_lmms.sweep.spec import VERSION

HEARTBEAT_S = 10
LOST_S = 12 * HEARTBEAT_S  # without a heartbeat for so long, a running job is dead


@dataclass(frozen=True)
class SweepJob:
    """One recipe on one shard of one task.

    Attributes:
        index: its number in the sweep, and in a Slurm array.
        recipe, task, shard: which.
        leaves: tasks that lmms-eval evaluates, with their names in the shard file.
        videos: rows of the shard, as the shard file lists them.
        streams, rounds: frames of every clip that it plays, and how often it asks, see `shards.Load`.
        path: its folder.
    """

    index: int
    recipe: str
    task: str
    shard: int
    leaves: dict[str, str]
    videos: dict[str, list[str]]
    streams: list[int]
    rounds: int
    path: Path

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
        """Frames and rounds, see `shards.Load`."""
        return sum(self.streams) + self.rounds

    @property
    def rows(self) -> int:
        """Requests: one for every video in every leaf."""
        return sum(map(len, self.videos.values()))

    def status(self) -> dict[str, Any]:
        """Its status file, with what is known before it first ran; a dead one is `lost`."""
        found = {"state": "waiting", "attempt": 0, "rows": 0, "seconds": 0.0, "reason": ""}
        found |= read_json(self.path / "status.json") or {}
        if found["state"] == "running":
            ended = found["host"] == socket.gethostname() and is_free(self.path / "lease")
            if ended or time.time() - found["heartbeat"] > LOST_S:
                why = f"killed, or its disk was full, or its machine {found['host']} is gone"
                found |= {"state": "lost", "reason": why}
        return found

    def set_status(self, **content: Any) -> None:
        """Replace the status file."""
        write_json(self.path / "status.json", content)


class Sweep:
    """An opened sweep.

    Args:
        root: its folder.

    Raises:
        StcError: there is no sweep in it, or one of another version.
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
        """All jobs, made as they are asked for."""
        for index in range(len(self.plan["jobs"])):
            yield self.job(index)

    def job(self, index: int) -> SweepJob:
        """The job of that number.

        Raises:
            StcError: there is none.
        """
        if not 0 <= index < len(self.plan["jobs"]):
            raise StcError(f"{self.root} has no job {index}; it has {len(self.plan['jobs'])}, from 0 on")
        found = self.plan["jobs"][index]
        path = self.root / "jobs" / found["recipe"] / found["task"] / f"{found['shard']:03d}"
        return SweepJob(index=index, path=path, **found)


def create(root: Path, plan: dict[str, Any]) -> Sweep:
    """Write the plan of a new sweep, or open the same sweep again.

    Raises:
        StcError: the folder holds another sweep, or cannot be written.
    """
    there = read_json(root / "sweep.json")
    if there is None:
        write_json(root / "sweep.json", plan)
    elif there != plan:
        differs = ", ".join(key for key in plan if there.get(key) != plan[key])
        raise StcError(f"{root} holds another sweep (its {differs} differ); give this one another output")
    return Sweep(root)
