"""`python -m parity FOLDER`: compare this implementation with recorded outputs of the original ones."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from parity.verify import last_line, summary, verify
from stc_lmms.errors import DataError, StcError


def main(argv: Sequence[str] | None = None) -> int:
    """Check the cases; returns 1 if one failed, 2 if the input is invalid or nothing was checked."""
    parser = argparse.ArgumentParser(prog="python -m parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with <area>/<case>.json (+ .safetensors)")
    parser.add_argument(
        "--areas", type=lambda text: [a for a in text.split(",") if a], help="only these, comma-separated"
    )
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        return _run(args)
    except StcError as error:
        print(f"parity: error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    outcomes = []
    for outcome in verify(args.folder, args.areas, args.dtype):
        outcomes.append(outcome)
        if not args.json:
            print(outcome.line(), flush=True)
    totals = summary(outcomes)
    if args.json:
        print(json.dumps(totals, indent=1))
    else:
        print(last_line(outcomes))
    if totals["skipped"] == len(outcomes):
        raise DataError(f"nothing was checked: all {len(outcomes)} cases were skipped")
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
