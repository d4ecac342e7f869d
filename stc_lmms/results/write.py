"""Writes runs: one folder per run with `run.json` and the answers, see `results/schema.py`."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stc_lmms.errors import StcError
from stc_lmms.results.schema import ANSWERS, FILE, Run

FOLDER = "stc_run_"


def write_run(output: Path, run: Run, answers: Iterable[Mapping[str, Any]] | None = None) -> None:
    """Write or replace a run in an output path.

    Args:
        output: the output path.
        run: content of `run.json`.
        answers: written first, one JSON object per line; None keeps those on disk.

    Raises:
        StcError: a file cannot be written; the old one stays.
    """
    folder = output / f"{FOLDER}{run.run}"
    if answers is not None:
        write_text(folder / ANSWERS, "".join(json.dumps(answer) + "\n" for answer in answers))
    write_text(folder / FILE, run.model_dump_json(indent=1) + "\n")


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
