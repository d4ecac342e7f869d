"""The shard of a benchmark that a run evaluates: `STC_SHARD` names the JSON file that lists its videos.

A task cannot be told on lmms-eval's command line which rows to take, other than by number. The variable is
read in this one place; without it a run has all rows.
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
    rows: Sequence[dict[str, Any]], what: str, environ: Mapping[str, str] = os.environ
) -> list[dict[str, Any]]:
    """The rows whose video is in this run's shard, in their order.

    Args:
        rows: of one part of a benchmark; every row has a `benchmark` and a `video`.
        what: name of the part, for messages.
        environ: where the variable is looked up.

    Raises:
        DataError: the file is missing or malformed, or lists none of these videos.
    """
    name = environ.get(VARIABLE)
    if not name:
        return list(rows)
    try:
        videos = {
            (benchmark, video)
            for benchmark, listed in json.loads(Path(name).read_text(encoding="utf-8"))["videos"].items()
            for video in listed
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{VARIABLE}={name} is not a readable shard file ({type(error).__name__})"
        raise DataError(f"{why}; unset {VARIABLE} to evaluate everything") from None
    found = [row for row in rows if (row["benchmark"], row["video"]) in videos]
    if not found:
        raise DataError(f"{VARIABLE}={name} has no video of {what}; unset {VARIABLE} to evaluate everything")
    print(f"stc-lmms: shard {name}: {len(found)} of {len(rows)} videos of {what}", file=sys.stderr)
    return found
