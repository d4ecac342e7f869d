"""Slurm: writes, submits, queries and cancels sbatch arrays with one element per job.

All functions that ask Slurm raise `StcError` if it is not installed, refuses, or does not answer.
"""

import dataclasses
import itertools
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stc_lmms.errors import SettingsError, StcError
from stc_lmms.results.write import write_text
from stc_lmms.suggest import unknown
from stc_lmms.sweep.folder import Sweep, read_json, write_json

ARRAY = 1000  # elements of an array: Slurm's default MaxArraySize is 1001
ENDING_S = 45.0  # Slurm kills a job 30 s after asking it to end (KillWait)
_COMMENT = re.compile(r"stc-lmms (\d+) (.*)")  # of our arrays: offset of the elements, folder of the sweep
_LOG = re.compile(r"(\d+)_(\d+)_(\d+)\.log")  # offset, array, element
_TIME = re.compile(r"\d+|(\d+-)?\d+(:\d+){1,2}|\d+-\d+")


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """How the jobs of a sweep run on a cluster, as in sbatch; None leaves the choice to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None  # a job that reaches its time limit is requeued and resumes
    nodes: int | None = None  # nodes that the sweep may occupy at once, if `gpus_per_node` is set
    gpus_per_node: int | None = None  # GPUs of a node; 0 for nodes without
    cpus_per_job: int | None = None  # `--cpus-per-task`
    mem_per_job: str | None = None  # `--mem`
    array_limit: int | None = None  # concurrent jobs of one start or resume; None: all that fit on the nodes
    notice_s: int = 120  # seconds before the time limit at which a job is asked to stop
    setup: str = ""  # shell lines that precede a job, such as `module load cuda`

    def __post_init__(self):
        """Check types and ranges."""
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None:
                continue
            if name == "time" and isinstance(value, int):  # YAML reads 4:00:00 as a number of seconds
                raise SettingsError(f"slurm: time={value} must be in quotes, such as '4:00:00'")
            if "int" in str(field.type):
                least = 0 if name in ("gpus_per_node", "notice_s") else 1
                if isinstance(value, bool) or not isinstance(value, int) or value < least:
                    raise SettingsError(f"slurm: {name}={value!r} must be a whole number of {least} or more")
            elif not isinstance(value, str) or (name != "setup" and not re.fullmatch(r"[\w.:@,+-]+", value)):
                raise SettingsError(f"slurm: {name}={value!r} must be a string without spaces")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise SettingsError(f"slurm: time={self.time!r} is not a time limit of sbatch, such as '4:00:00'")

    def at_once(self, gpus_per_job: int) -> int | None:
        """Number of jobs that may run at the same time; None for no limit."""
        if self.array_limit or not (self.nodes and self.gpus_per_node):
            return self.array_limit
        return max(1, self.nodes * (self.gpus_per_node // gpus_per_job))


class Element(NamedTuple):
    """A job that Slurm still has: the id of its array, and the job's state in Slurm."""

    array: str
    state: str


def write_scripts(sweep: Sweep, indices: Sequence[int], options: SlurmOptions) -> list[Path]:
    """Write scripts that run the jobs with these indices, one for each thousand jobs of the sweep."""
    stamp = sweep.root.resolve() / "slurm" / time.strftime("%Y%m%d_%H%M%S")
    paths = []
    for offset, chunk in itertools.groupby(sorted(indices), lambda index: index // ARRAY * ARRAY):
        paths.append(stamp.with_name(f"{stamp.name}_{offset:05d}.sbatch"))
        write_text(paths[-1], script(sweep, list(chunk), offset, options))
    return paths


def script(sweep: Sweep, indices: Sequence[int], offset: int, options: SlurmOptions) -> str:
    """An sbatch script whose array elements, counted from `offset`, are these jobs."""
    root, gpus = sweep.root.resolve(), sweep.plan["gpus_per_job"]
    cpu = all(recipe["device"] == "cpu" for recipe in sweep.plan["recipes"].values())
    at_once = options.at_once(gpus)
    directives = {
        "job-name": "stc-" + re.sub(r"[^\w.-]", "_", root.name),
        "array": ranges([index - offset for index in indices]) + (f"%{at_once}" if at_once else ""),
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "time": options.time,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": options.cpus_per_job,
        "mem": options.mem_per_job,
        "gpus-per-node": None if cpu or options.gpus_per_node == 0 else gpus,
        "requeue": True,
        "open-mode": "append",
        "signal": f"B:USR1@{options.notice_s}",
        "output": f'"{root}/slurm/{offset:05d}_%A_%a.log"',
        "comment": f'"stc-lmms {offset} {root}"',  # identifies the array, whoever submits it
    }
    chosen = {name: value for name, value in directives.items() if value is not None}
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{name}" + ("" if value is True else f"={value}") for name, value in chosen.items()]
    worker = shlex.join([sys.executable, "-m", "stc_lmms.sweep.worker", str(root)])
    # exec: Slurm's signals reach the worker rather than a shell
    lines += [*options.setup.splitlines(), f"exec {worker} $(({offset} + SLURM_ARRAY_TASK_ID))"]
    return "\n".join(lines) + "\n"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in the form of `--array`: 0-3,7."""
    parts = []
    for _, run in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        first, *_, last = [*run] * 2
        parts.append(str(first[1]) if first == last else f"{first[1]}-{last[1]}")
    return ",".join(parts)


def check(options: SlurmOptions) -> None:
    """Refuse a partition that the cluster does not have, before anything is written.

    Raises:
        SettingsError: there is no such partition.
    """
    known = set(_call(["sinfo", "--noheader", "--format=%R"]).split())
    for name in options.partition.split(",") if options.partition else ():
        if name not in known:
            raise SettingsError(unknown("partition", name, known))


def submit(sweep: Sweep, scripts: Sequence[Path], in_sequence: bool) -> list[str]:
    """Submit scripts until Slurm refuses one; stores the array ids in the folder, and returns them.

    `in_sequence` starts each array when the previous one has ended: Slurm limits only the jobs of one array.
    """
    submitted: list[str] = []
    for path in scripts:
        after = [f"--dependency=afterany:{submitted[-1]}"] if in_sequence and submitted else []
        submitted.append(_call(["sbatch", "--parsable", *after, str(path)]).strip().partition(";")[0])
        array = {"id": submitted[-1], "offset": int(path.stem.rpartition("_")[2])}
        write_json(sweep.root / "slurm.json", [*_submitted(sweep), array])
    return submitted


def commands(scripts: Sequence[Path], in_sequence: bool) -> list[str]:
    """Shell commands that do what `submit` does."""
    paths = [shlex.quote(str(path)) for path in scripts]
    if not in_sequence or len(paths) == 1:
        return [f"sbatch {path}" for path in paths]
    after = "--dependency=afterany:${id%%;*} "
    return [f"id=$(sbatch --parsable {after if i else ''}{path})" for i, path in enumerate(paths)]


def settled(sweep: Sweep, wait_s: float = ENDING_S) -> dict[int, Element]:
    """`queued` once no job is ending any more, or after `wait_s`."""
    end = time.monotonic() + wait_s
    while ending(found := queued(sweep)) and time.monotonic() < end:
        time.sleep(1)
    return found


def ending(jobs: Mapping[int, Element]) -> int:
    """Number of jobs that have ended for Slurm while their processes still run."""
    return sum(element.state == "COMPLETING" for element in jobs.values())


def cancel(sweep: Sweep) -> list[str]:
    """Cancel all arrays of the sweep; returns their ids."""
    arrays = list(dict.fromkeys(element.array for element in queued(sweep).values()))
    if arrays:
        _call(["scancel", *arrays])
    return arrays


def logs(sweep: Sweep) -> dict[int, Path]:
    """Slurm's newest log of every job it started; a job that failed at its start has no other log."""
    names = [(_LOG.fullmatch(path.name), path) for path in (sweep.root / "slurm").glob("*.log")]
    by_array = sorted((int(name[2]), int(name[1]) + int(name[3]), path) for name, path in names if name)
    return {index: path for _, index, path in by_array}


def _submitted(sweep: Sweep) -> list[dict]:
    """Arrays that `submit` submitted: `id`, and `offset` of the elements."""
    return read_json(sweep.root / "slurm.json") or []


def queued(sweep: Sweep) -> dict[int, Element]:
    """Jobs that Slurm still has, by index, whoever submitted them; empty if none can have been submitted."""
    offsets = {array["id"]: array["offset"] for array in _submitted(sweep)}
    if not offsets and not any((sweep.root / "slurm").glob("*.sbatch")):
        return {}
    root, found = str(sweep.root.resolve()), {}
    for line in _call(["squeue", "--noheader", "--array", "--me", "--format=%F %K %T %k"]).splitlines():
        array, element, state, comment = [*line.split(maxsplit=3), *[""] * 4][:4]
        ours = _COMMENT.fullmatch(comment.strip())
        offset = int(ours[1]) if ours and ours[2] == root else offsets.get(array)
        if offset is not None and element.isdecimal():
            found[offset + int(element)] = Element(array, state)
    return found


def _call(command: Sequence[str]) -> str:
    program = command[0]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        why = "is not installed: this is no Slurm machine; use --executor local or print"
        raise StcError(f"{program} {why}") from None
    except subprocess.TimeoutExpired:
        raise StcError(f"{program} did not answer within a minute") from None
    if done.returncode:
        why = re.sub(rf"^{program}: (error: )?", "", " ".join(done.stderr.split()))
        raise StcError(f"{program}: {why}")
    return done.stdout
