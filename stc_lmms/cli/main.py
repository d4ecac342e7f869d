"""`stc-lmms`: one module of this package per command; everything else is passed on to lmms-eval."""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from stc_lmms import __version__
from stc_lmms.cli import harness, sweep
from stc_lmms.errors import StcError

# Each is a module of this package with HELP, DESCRIPTION, add_arguments(parser) and run(args) -> exit status.
# None of them may import torch at import time.
COMMANDS = (
    "bench",
    "compare",
    "data",
    "leaderboard",
    "methods",
    "plan",
    "report",
    "run",
    "show",
    "stream",
    "sweep",
)
_REMOVED = {"verify": "use `python -m parity FOLDER` in a checkout of the repository"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors the user can act on are printed as one line, with exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if harness.handles(argv):
        return harness.run(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        if argv and argv[0] in _REMOVED:
            raise StcError(f"the command {argv[0]} was removed; {_REMOVED[argv[0]]}")
        args = _parser().parse_args(sweep.with_default(argv))
        return args.run(args)
    except StcError as error:
        print(f"stc-lmms: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stc-lmms",
        description="Streaming token compression and streaming benchmarks. Everything else is passed on to "
        f"lmms-eval ({', '.join(harness.COMMANDS)}, or --model ... --tasks ...).",
    )
    parser.add_argument("--version", action="version", version=f"stc-lmms {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    for name in COMMANDS:
        command = importlib.import_module(f"stc_lmms.cli.{name}")
        arguments = commands.add_parser(name, help=command.HELP, description=command.DESCRIPTION)
        arguments.set_defaults(run=command.run)
        command.add_arguments(arguments)
    return parser
