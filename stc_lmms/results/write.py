"""Writes runs: one folder per run with `run.json` and the answers of every rank, see `results/schema.py`."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stc_lmms.errors import StcError
from stc_lmms.results.schema import FILE, Run

FOLDER = "stc_run_"


def run_folder(output: Path, run: str) -> Path:
    """Where a run with this output path and name is written."""
    return output / f"{FOLDER}{run}"


def write_run(output: Path, run: Run) -> Path:
    """Write or replace `run.json`.

    Returns:
        Its path.

    Raises:
        StcError: it cannot be written; the old file stays.
    """
    path = run_folder(output, run.run) / FILE
    write_text(path, run.model_dump_json(indent=1) + "\n")
    return path


def write_answers(output: Path, run: str, rank: int, answers: Iterable[Mapping[str, Any]]) -> str:
    """Write the answers of one rank, one JSON object per line.

    Returns:
        The name of the file.

    Raises:
        StcError: it cannot be written.
    """
    name = f"answers_rank{rank}.jsonl"
    write_text(run_folder(output, run) / name, "".join(json.dumps(answer) + "\n" for answer in answers))
    return name


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step; makes its folder.

    Raises:
        StcError: the disk is full, or the folder cannot be written; the old file stays.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StcError(f"cannot write {path} ({error.strerror}); finished work is kept") from None
