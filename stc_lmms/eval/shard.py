"""The shard of a benchmark that a run evaluates: `STC_SHARD` names the JSON file that lists its videos.

A task cannot be told on lmms-eval's command line which rows to take, other than by number. The variable is
read in this one place; without it a run has all rows. The file holds `{"rows": {"ovobench/backward": [video,
...]}}`; its order is that of the run, because lmms-eval gives row i to rank i mod the number of ranks.
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
    """The rows whose video is in this run's shard, in the order of the shard.

    Args:
        rows: of one part of a benchmark.
        benchmark: which.
        part: of it.
        environ: where the variable is looked up.

    Raises:
        DataError: the file is missing or malformed, or lists no video of this part, or one that is not in it.
    """
    name = environ.get(VARIABLE)
    if not name:
        return list(rows)
    what, by_video = key(benchmark, part), {row["video"]: row for row in rows}
    try:
        listed = json.loads(Path(name).read_text(encoding="utf-8"))["rows"].get(what, [])
        found = [by_video[video] for video in listed if video in by_video]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{VARIABLE}={name} is not a readable shard file ({type(error).__name__})"
        raise DataError(f"{why}; unset {VARIABLE} to evaluate everything") from None
    if not found or len(found) != len(listed):
        why = f"{VARIABLE}={name} lists {len(listed)} videos of {what}, of which {len(found)} are there"
        raise DataError(f"{why}; unset {VARIABLE} to evaluate everything")
    print(f"stc-lmms: shard {name}: {len(found)} of {len(rows)} videos of {what}", file=sys.stderr)
    return found


def key(benchmark: str, part: str) -> str:
    """Name of a part in a shard file."""
    return f"{benchmark}/{part}"
