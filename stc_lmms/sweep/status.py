"""Progress of a sweep: counts of jobs, rates, the time left, and why jobs failed."""

import time
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stc_lmms.sweep import samples, slurm
from stc_lmms.sweep.folder import Sweep, SweepJob
from stc_lmms.text_table import text_table

# In the order of the table. `queued`: Slurm still has it; `stopped` and `lost`: resume continues it.
STATES = ("done", "running", "queued", "waiting", "stopped", "lost", "failed")


@dataclass
class Line:
    """One recipe on one task."""

    recipe: str
    task: str
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    rows: int = 0  # answered videos
    all_rows: int = 0
    failed_rows: int = 0  # answered videos with a failed answer, which counts as wrong
    cost: float = 0.0  # of what is done, see `shards.Load`
    left: float = 0.0  # cost of what is not
    seconds: float = 0.0  # run time of all attempts

    @property
    def rate(self) -> float | None:
        """Measured frames per second of one job; None before any measurement."""
        return self.cost / self.seconds if self.cost and self.seconds else None


@dataclass
class Status:
    """A sweep at one moment; `troubles`: name, state and reason of failed, stopped and lost jobs."""

    lines: list[Line]
    troubles: list[tuple[str, str, str]]

    def count(self, state: str) -> int:
        """Jobs in a state."""
        return sum(line.states[state] for line in self.lines)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not any(self.count(state) for state in STATES if state != "done")

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at measured rates and with as many running jobs as now; None if unknown.

        A recipe that has not started is assumed to be as fast as the others on average.
        """
        running = self.count("running")
        spent, cost = (sum(getattr(line, name) for line in self.lines) for name in ("seconds", "cost"))
        if not (running and spent and cost):
            return None
        return sum(line.left / (line.rate or cost / spent) for line in self.lines) / running


def status(sweep: Sweep, queued: Container[int] | None = None) -> Status:
    """Read the state of all jobs; `queued`: those that Slurm has, see `slurm.queued`; None if unknown."""
    logs = {} if queued is None else slurm.logs(sweep)
    lines: dict[tuple[str, str], Line] = {}
    troubles = []
    for job in sweep.jobs:
        found = job.status()
        state = found["state"]
        if state in ("waiting", "stopped", "lost", "failed") and job.index in (queued or ()):
            state = "queued"
        elif state == "waiting" and job.index in logs:
            state, found["reason"] = "lost", start_failure(logs[job.index])
        line = lines.setdefault((job.recipe, job.task), Line(job.recipe, job.task))
        line.states[state] += 1
        share = 1.0 if found["state"] == "done" else min(1.0, found["rows"] / job.rows)
        line.rows += job.rows if found["state"] == "done" else found["rows"]
        line.all_rows += job.rows
        line.failed_rows += found.get("failed_rows", 0)
        line.cost += share * job.cost
        line.left += (1 - share) * job.cost
        line.seconds += found["seconds"]
        if state in ("failed", "stopped", "lost"):
            troubles.append((job.name, state, found["reason"]))
    return Status(list(lines.values()), troubles)


def start_failure(log: Path) -> str:
    """Why a job that Slurm started never ran: the `setup` lines or its Python failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"ended before it started ({last[:200]}); see {log}"


def unfinished(sweep: Sweep, excluded: Container[int] = ()) -> list[SweepJob]:
    """Jobs that are neither done nor running, except those with the excluded indices."""
    jobs = [job for job in sweep.jobs if job.index not in excluded]
    return [job for job in jobs if job.status()["state"] != "running" and samples.is_open(job)]


def text(progress: Status) -> str:
    """The table, the failed, stopped and lost jobs, and the time left."""
    states = [state for state in STATES if progress.count(state)]
    head = ["recipe", "task", *states, "videos", "failed videos", "frames/s per job"]
    rows = []
    for line in progress.lines:
        cells = [*(line.states[state] for state in states), f"{line.rows}/{line.all_rows}", line.failed_rows]
        rate = f"{line.rate:.2f}" if line.rate else "-"
        rows.append([line.recipe, line.task, *map(str, cells), rate])
    lines = [text_table(head, rows, left=2), ""]
    if progress.troubles:
        lines += [*(f"{name}: {state}: {reason}" for name, state, reason in progress.troubles), ""]
    total, when = sum(map(progress.count, STATES)), ""
    if (left := progress.left_s) is not None:
        end = time.strftime("%a %H:%M", time.localtime(time.time() + left))
        when = f"; about {duration(left)} left, until {end}"
    return "\n".join([*lines, f"{progress.count('done')} of {total} jobs done{when}"])


def as_json(progress: Status) -> dict[str, Any]:
    """The status as plain JSON values."""
    return {
        "lines": [vars(line) | {"frames_per_s": line.rate} for line in progress.lines],
        "troubles": [{"job": job, "state": state, "reason": why} for job, state, why in progress.troubles],
        "left_s": progress.left_s,
        "done": progress.done,
    }


def duration(seconds: float) -> str:
    """Seconds, in a suitable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
