"""What runs leave in their output path."""

import json
from pathlib import Path


def recorded(output):
    """The `run.json` of every run in an output path, oldest first; `answers` are the answers themselves."""
    found = []
    for path in sorted(Path(output).glob("stc_run_*/run.json")):
        record = json.loads(path.read_text())
        lines = [(path.parent / file["file"]).read_text().splitlines() for file in record["answers"]]
        assert [len(each) for each in lines] == [file["answers"] for file in record["answers"]]
        found.append(record | {"answers": [json.loads(line) for each in lines for line in each]})
    return found
