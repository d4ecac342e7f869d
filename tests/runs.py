"""What runs leave in their output path."""

import json
from pathlib import Path


def recorded(output):
    """The `run.json` of every run in an output path, oldest first; `answers` are the answers themselves."""
    found = []
    for path in sorted(Path(output).glob("stc_run_*/run.json")):
        record = json.loads(path.read_text())
        lines = (path.parent / record["answers"]).read_text().splitlines() if record["answers"] else []
        found.append(record | {"answers": [json.loads(line) for line in lines]})
    return found
