"""The sample files that lmms-eval writes: one line per video, with the values its metrics aggregate."""

from pathlib import Path

from stc_lmms.results.read import newest_run
from stc_lmms.sweep.folder import SweepJob


def newest(out: Path, leaf: str) -> Path | None:
    """The sample file of a task's newest run in an output path; file names begin with the time."""
    return max(out.glob(f"*/*_samples_{leaf}.jsonl"), key=lambda path: path.name, default=None)


def missing(job: SweepJob) -> str:
    """What a job that ended well failed to write, in one line; lmms-eval only warns of a full disk."""
    for leaf, key in job.leaves.items():
        rows, path = len(job.videos[key]), newest(job.out, leaf)
        found = path.read_bytes().count(b"\n") if path else 0  # a line cut short by a full disk has none
        if found != rows:
            return f"{found} of {rows} samples of {leaf} exist; is the disk full, or were they deleted?"
    if newest_run(job.out) is None:
        return f"{job.out} has no record of a run; is the disk full, or was it deleted?"
    return ""


def is_open(job: SweepJob) -> bool:
    """Whether a job is not done, or has lost its output; its journal then restores it without the model."""
    return job.status()["state"] != "done" or bool(missing(job))
