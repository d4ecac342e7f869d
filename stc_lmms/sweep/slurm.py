"""Slurm: writes sbatch scripts with one array element per job, submits them, asks for them, cancels them."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stc_lmms.errors import SettingsError, StcError
from stc_lmms.suggest import unknown
from stc_lmms.sweep.files import read_json, write_json
from stc_lmms.sweep.folder import Sweep
from stc_lmms.sweep.spec import SlurmOptions

ARRAY = 1000  # elements of an array: Slurm's default MaxArraySize is 1001
ENDING_S = 45.0  # Slurm kills what it was asked to end after 30 s (KillWait)
_COMMENT = re.compile(r"stc-lmms (\d+) (.*)")  # of our arrays: offset of its elements, folder of the sweep
_LOG = re.compile(r"(\d+)_(\d+)_(\d+)\.log")  # offset, array, element


class Element(NamedTuple):
    """A job that Slurm still has: number of its array, and Slurm's state of it."""

    array: str
    state: str


def write_scripts(sweep: Sweep, indices: Sequence[int], options: SlurmOptions) -> list[Path]:
    """One script for each thousand jobs, with the numbers of those that shall run.

    Raises:
        StcError: the folder cannot be written.
    """
    folder = sweep.root.resolve() / "slurm"
    stamp = time.strftime("%Y%m%d_%H%M%S")
    chunks: dict[int, list[int]] = {}
    for index in indices:
        chunks.setdefault(index // ARRAY * ARRAY, []).append(index)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for offset, chunk in chunks.items():
            path = folder / f"{stamp}_{offset:05d}.sbatch"
            path.write_text(script(sweep, chunk, offset, options), encoding="utf-8")
            paths.append(path)
    except OSError as error:
        raise StcError(f"cannot write to {folder} ({error.strerror})") from None
    return paths


def script(sweep: Sweep, indices: Sequence[int], offset: int, options: SlurmOptions) -> str:
    """An sbatch script whose array elements, counted from `offset`, are the jobs with these numbers."""
    root, gpus = sweep.root.resolve(), sweep.plan["gpus_per_job"]
    cpu = all(recipe["device"] == "cpu" for recipe in sweep.plan["recipes"].values())
    at_once = options.at_once(gpus)
    asked = {
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
        "comment": f'"stc-lmms {offset} {root}"',  # known again, whoever submits it
    }
    lines = ["#!/bin/bash"]
    for name, value in asked.items():
        if value is not None:
            lines.append(f"#SBATCH --{name}" + ("" if value is True else f"={value}"))
    worker = shlex.join([sys.executable, "-m", "stc_lmms.sweep.worker", str(root)])
    # exec: the signals of Slurm then come to the worker, not to a shell
    lines += [*options.setup.splitlines(), f"exec {worker} $(({offset} + SLURM_ARRAY_TASK_ID))"]
    return "\n".join(lines) + "\n"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as `--array` takes them: 0-3,7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def check(options: SlurmOptions) -> None:
    """Refuse what the cluster does not have, before anything is written.

    Raises:
        StcError: Slurm is not installed, or does not answer.
        SettingsError: there is no such partition.
    """
    known = set(_call(["sinfo", "--noheader", "--format=%R"]).split())
    if options.partition is not None:
        for name in options.partition.split(","):
            if name not in known:
                raise SettingsError(unknown("partition", name, known))


def submit(sweep: Sweep, scripts: Sequence[Path], in_turn: bool) -> list[str]:
    """Submit the scripts; their array ids are kept in the folder.

    Args:
        sweep: whose.
        scripts: to be submitted.
        in_turn: an array begins when the one before has ended: Slurm limits the jobs at once of each alone.

    Raises:
        StcError: Slurm refuses one, with its reason; those before it are submitted.
    """
    submitted: list[str] = []
    for path in scripts:
        after = [f"--dependency=afterany:{submitted[-1]}"] if in_turn and submitted else []
        number = _call(["sbatch", "--parsable", *after, str(path)]).strip().partition(";")[0]
        submitted.append(number)
        offset = int(path.stem.rpartition("_")[2])
        write_json(sweep.root / "slurm.json", [*_submitted(sweep), {"id": number, "offset": offset}])
    return submitted


def commands(scripts: Sequence[Path], in_turn: bool) -> list[str]:
    """What to type in place of `submit`."""
    paths = [shlex.quote(str(path)) for path in scripts]
    if not in_turn or len(paths) == 1:
        return [f"sbatch {path}" for path in paths]
    after = "--dependency=afterany:${id%%;*} "
    return [f"id=$(sbatch --parsable {after if i else ''}{path})" for i, path in enumerate(paths)]


def queued(sweep: Sweep) -> dict[int, Element]:
    """Jobs that Slurm still has, by number; empty where nothing can have been submitted.

    Raises:
        StcError: Slurm does not answer.
    """
    return dict(_elements(sweep))


def settled(sweep: Sweep, wait_s: float = ENDING_S) -> dict[int, Element]:
    """`queued` as soon as Slurm has ended all that it is ending, or `wait_s` is over.

    Raises:
        StcError: Slurm does not answer.
    """
    end = time.monotonic() + wait_s
    while ending(found := queued(sweep)) and time.monotonic() < end:
        time.sleep(1)
    return found


def ending(found: Mapping[int, Element]) -> int:
    """How many jobs Slurm has already ended, but for their processes."""
    return sum(element.state == "COMPLETING" for element in found.values())


def cancel(sweep: Sweep) -> list[str]:
    """Cancel all arrays of the sweep; returns their ids.

    Raises:
        StcError: Slurm does not answer.
    """
    found = list(dict.fromkeys(element.array for _, element in _elements(sweep)))
    if found:
        _call(["scancel", *found])
    return found


def logs(sweep: Sweep) -> dict[int, Path]:
    """Slurm's newest log of every job that it started: all there is of one that ended before it began."""
    found: dict[int, tuple[int, Path]] = {}
    for path in (sweep.root / "slurm").glob("*.log"):
        if named := _LOG.fullmatch(path.name):
            offset, array, element = map(int, named.groups())
            found[offset + element] = max(found.get(offset + element, (0, path)), (array, path))
    return {index: path for index, (_, path) in found.items()}


def _submitted(sweep: Sweep) -> list[dict]:
    """Arrays that `submit` submitted: `id`, and `offset` of the elements."""
    return read_json(sweep.root / "slurm.json") or []


def _elements(sweep: Sweep) -> list[tuple[int, Element]]:
    """What Slurm still has of our arrays, whoever submitted them: number of the job, and its element."""
    offsets = {array["id"]: array["offset"] for array in _submitted(sweep)}
    if not offsets and not any((sweep.root / "slurm").glob("*.sbatch")):
        return []
    root, found = str(sweep.root.resolve()), []
    for line in _call(["squeue", "--noheader", "--array", "--me", "--format=%F %K %T %k"]).splitlines():
        array, element, state, comment = [*line.split(maxsplit=3), *[""] * 4][:4]
        ours = _COMMENT.fullmatch(comment.strip())
        offset = int(ours[1]) if ours and ours[2] == root else offsets.get(array)
        if offset is not None and element.isdecimal():
            found.append((offset + int(element), Element(array, state)))
    return found


def _call(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        raise StcError(
            f"{command[0]} is not installed: this is no Slurm machine; use --executor local or print"
        )
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise StcError(f"{command[0]} did not answer within a minute") from None
    if found.returncode:
        why = re.sub(rf"^{command[0]}: (error: )?", "", " ".join(found.stderr.split()))
        raise StcError(f"{command[0]}: {why}")
    return found.stdout
