"""`stc-lmms report`: accuracy and efficiency of finished runs."""

import argparse
from pathlib import Path

HELP = "accuracy and efficiency tables of finished runs"
DESCRIPTION = "Prints accuracy and efficiency tables of the runs below the folders."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folders", nargs="+", type=Path, help="output paths of lmms-eval runs")


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    from stc_lmms.results.tables import render

    print(render(args.folders))
    return 0
