"""`stc-lmms methods`: every method, memory and model with its arguments."""

import argparse
import json

HELP = "list methods, memories, models and their arguments"
DESCRIPTION = "Lists every method, memory and model with its arguments and their defaults."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--model", help="only what this model accepts, with its defaults (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the tables, or JSON."""
    from stc_lmms.cli.method_tables import as_text, memories, methods, models

    if args.json:
        listed = {kind.__name__: kind(args.model) for kind in (methods, memories, models)}
        print(json.dumps(listed, indent=1))
    else:
        print(as_text(args.model))
    return 0
