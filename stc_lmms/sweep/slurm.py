"""Slurm: writes sbatch scripts with one array element per job, submits them, asks for them, cancels them."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stc_lmms.errors import SettingsError, StcError
from stc_lmms.suggest import unknown
from stc_lmms.sweep.files import read_json, write_json
from stc_lmms.sweep.folder import Sweep
from stc_lmms.sweep.spec import SlurmOptions

ARRAY = 1000  # elements of an array: Slurm's default MaxArraySize is 1001


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
        "output": f'"{root}/slurm/%A_%a.log"',
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


def submit(sweep: Sweep, scripts: Sequence[Path]) -> list[str]:
    """Submit the scripts; their array ids are kept in the folder.

    Raises:
        StcError: Slurm refuses one, with its reason; those before it are submitted.
    """
    submitted = []
    for path in scripts:
        number = _call(["sbatch", "--parsable", str(path)]).strip().partition(";")[0]
        submitted.append(number)
        offset = int(path.stem.rpartition("_")[2])
        write_json(sweep.root / "slurm.json", [*arrays(sweep), {"id": number, "offset": offset}])
    return submitted


def arrays(sweep: Sweep) -> list[dict]:
    """What was submitted so far: `id` of the array, and `offset` of its elements."""
    return read_json(sweep.root / "slurm.json") or []


def queued(sweep: Sweep) -> dict[int, str]:
    """Jobs that Slurm still has, by number, with its state of them; empty where nothing was submitted.

    Raises:
        StcError: Slurm does not answer.
    """
    offsets = {array["id"]: array["offset"] for array in arrays(sweep)}
    if not offsets:
        return {}
    listed = _call(["squeue", "--noheader", "--array", "--me", "--format=%F %K %T"])
    found = {}
    for line in listed.splitlines():
        array, _, rest = line.partition(" ")
        element, _, state = rest.partition(" ")
        if array in offsets and element.isdecimal():
            found[offsets[array] + int(element)] = state.strip()
    return found


def cancel(sweep: Sweep) -> list[str]:
    """Cancel all arrays of the sweep; returns their ids.

    Raises:
        StcError: Slurm does not answer.
    """
    found = [array["id"] for array in arrays(sweep)]
    if found and queued(sweep):
        _call(["scancel", *found])
        return found
    return []


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
