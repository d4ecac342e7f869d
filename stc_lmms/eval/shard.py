"""The shard of a benchmark that a run evaluates: `STC_SHARD` names a JSON file with its videos.

lmms-eval's command line can only limit the number of rows, not select them, hence the variable; without it a
run has all rows. The file contains `{"rows": {"BENCHMARK/PART": [video, ...]}}` in the order of the run,
because lmms-eval gives row i to rank i mod the number of ranks.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stc_lmms.errors import DataError

VARIABLE = "STC_SHARD"


def select(
    rows: Sequence[dict[str, Any]], benchmark: str, part: str, environ: Mapping[str, str] = os.environ
) -> list[dict[str, Any]]:
    """The rows of a part whose videos are in this run's shard, in the order of the shard.

    Raises:
        DataError: the file is missing or malformed, lists no video of the part, or lists an unknown one.
    """
    name = environ.get(VARIABLE)
    if not name:
        return list(rows)
    name_of_part, by_video = key(benchmark, part), {row["video"]: row for row in rows}
    fix = f"unset {VARIABLE} to evaluate everything"
    try:
        listed = json.loads(Path(name).read_text(encoding="utf-8"))["rows"].get(name_of_part, [])
        found = [by_video[video] for video in listed if video in by_video]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"is not a readable shard file ({type(error).__name__})"
        raise DataError(f"{VARIABLE}={name} {why}; {fix}") from None
    if not found or len(found) != len(listed):
        why = f"lists {len(listed)} videos of {name_of_part}, of which {len(found)} exist"
        raise DataError(f"{VARIABLE}={name} {why}; {fix}")
    print(f"stc-lmms: shard {name}: {len(found)} of {len(rows)} videos of {name_of_part}", file=sys.stderr)
    return found


def key(benchmark: str, part: str) -> str:
    """Name of a part in a shard file."""
    return f"{benchmark}/{part}"
