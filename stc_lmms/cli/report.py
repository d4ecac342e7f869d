"""`stc-lmms report`: accuracy and efficiency of finished runs on the terminal."""

import argparse
import sys
from pathlib import Path

HELP = "accuracy and efficiency tables of finished runs"
DESCRIPTION = (
    "Prints accuracy and efficiency of all runs below the folders: output paths of runs, grids of stc-lmms "
    "compare, merged sweeps, and plain result files of lmms-eval and VLMEvalKit. Skips other files, with one "
    "line each."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="searched recursively")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    form.add_argument("--csv", action="store_true", help="print one line per run and benchmark instead")


def run(args: argparse.Namespace) -> int:
    """Print the tables; files that are skipped are reported on standard error."""
    from stc_lmms.results.leaderboard import build, to_csv, to_json, to_text
    from stc_lmms.results.read import find_runs

    runs = find_runs(args.folders, lambda line: print(f"stc-lmms: {line}", file=sys.stderr))
    rows = build(runs)
    if args.json:
        print(to_json(rows, runs, published=False), end="")
    elif args.csv:
        print(to_csv(rows), end="")
    else:
        print(to_text(rows, runs))
    return 0
