"""OVO-Bench's question rows: from the root, else from a copy on the dataset hub."""

import json
import logging
from pathlib import Path
from typing import Any

from stc_lmms.data.catalog import OVOBENCH
from stc_lmms.data.roots import annotation_file
from stc_lmms.errors import DataError

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10

Row = dict[str, Any]

QUESTION_FILE = "ovo_bench_new.json"
HUB_ROWS = "kcz358/OVOBench"
_CONFIGS = ("backward", "realtime", "forward")
_COMMON_FIELDS = ("id", "task", "video")
_CHOICE_FIELDS = (*_COMMON_FIELDS, "realtime", "question", "options", "gt")
_FORWARD_FIELDS = (*_COMMON_FIELDS, "test_info")
_FORWARD_TASKS = ("REC", "SSR", "CRR")


def load_ovobench_rows(root: Path, name: str = QUESTION_FILE) -> list[Row]:
    """Rows of OVO-Bench, ordered by `id`.

    Args:
        root: Folder of `benchmark_root`.
        name: Question file. If the benchmark's own file is not in the root, its rows come from the dataset
            hub; nothing stands in for any other file.

    Raises:
        DataError: The file is not a list of complete rows; or it is absent and the hub cannot stand in.
    """
    try:
        path = annotation_file(root, name)
    except DataError:
        if name != QUESTION_FILE:
            raise
        logger.info("%s is not in %s; taking the rows from the hub dataset %s", QUESTION_FILE, root, HUB_ROWS)
        return load_hub_annotations(root)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list of rows")
    return _checked_rows(rows, str(path), "download it again")


def load_hub_annotations(root: Path | None = None, name: str = HUB_ROWS) -> list[Row]:
    """Rows of OVO-Bench from the dataset hub, or from a local folder of that relative path.

    Args:
        root: Where the message tells the user to put the original file.
        name: Dataset with the configurations backward, realtime and forward, each with a split "test".

    Returns:
        The rows of all three, ordered by `id`, without the empty fields a table adds.

    Raises:
        DataError: The dataset is unreachable, or its rows lack fields of the original (e.g. `video`).
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    place = root if root is not None else f"the folder of {OVOBENCH.variable}"
    fix = f"download {OVOBENCH.questions_url}{QUESTION_FILE} and put it at {place}"
    if root is not None:
        fix += f", or run {OVOBENCH.fetch_command('src', root)} for the videos, too"
    rows: list[Row] = []
    for config in _CONFIGS:
        try:
            if not (Path(name).is_dir() or constants.HF_HUB_OFFLINE):
                # Without a network load_dataset would go on retrying for 24 s; this fails at once.
                HfApi().dataset_info(name, timeout=_TIMEOUT_S)
            table = load_dataset(name, config, split="test")
        except Exception as error:  # datasets, pyarrow and the hub each raise kinds of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"cannot load {config!r} of the hub dataset {name} ({reason}); {fix}") from error
        rows += [_without_none(row) for row in table]
    return _checked_rows(rows, f"the hub dataset {name}", fix)


def _without_none(value: Any) -> Any:
    """Drop what a table fills in where the original row has no such field."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _checked_rows(rows: list[Any], where: str, fix: str) -> list[Row]:
    seen: set[int] = set()
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"row {index} of {where} is not an object; {fix}")
        needed = _FORWARD_FIELDS if row.get("task") in _FORWARD_TASKS else _CHOICE_FIELDS
        if lacking := [field for field in needed if row.get(field) in (None, "", [])]:
            raise DataError(
                f"row {row.get('id', index)} of {where} lacks {', '.join(map(repr, lacking))}; {fix}"
            )
        rounds = row["test_info"] if "test_info" in needed else [row]
        times_ok = all(isinstance(r, dict) and isinstance(r.get("realtime"), int | float) for r in rounds)
        if not (isinstance(row["id"], int) and isinstance(row["video"], str) and times_ok):
            raise DataError(f"row {row['id']!r} of {where}: id, video or realtime has the wrong type; {fix}")
        if row["id"] in seen:
            raise DataError(f"{where} holds the id {row['id']} twice; {fix}")
        seen.add(row["id"])
    if not rows:
        raise DataError(f"{where} holds no rows; {fix}")
    return sorted(rows, key=lambda row: row["id"])
