"""`stc-lmms leaderboard`: all runs below the given folders as Markdown, CSV, JSON and an HTML page."""

import argparse
import sys
from pathlib import Path

from stc_lmms.errors import SettingsError, StcError
from stc_lmms.suggest import unknown

HELP = "all runs as tables and an HTML page"
DESCRIPTION = (
    "Finds runs below the folders, including plain result files of lmms-eval and VLMEvalKit, and writes "
    "leaderboard.md, .csv, .json and .html."
)
FORMATS = ("md", "csv", "json", "html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="RESULTS_DIR", help="searched recursively")
    parser.add_argument(
        "--output", type=Path, default=Path("leaderboard"), help="folder to write to (default: leaderboard)"
    )
    parser.add_argument("--format", default=",".join(FORMATS), help=f"default: {','.join(FORMATS)}")


def run(args: argparse.Namespace) -> int:
    """Write the files and print their names; files that are skipped are reported."""
    from stc_lmms.results import page
    from stc_lmms.results.leaderboard import build, to_csv, to_json, to_markdown
    from stc_lmms.results.read import find_runs

    formats = dict.fromkeys(name for name in args.format.split(",") if name)
    for name in formats:
        if name not in FORMATS:
            raise SettingsError(unknown("format", name, FORMATS))
    if "html" in formats:
        page.template_environment()
    runs = find_runs(args.folders, lambda line: print(f"stc-lmms: {line}", file=sys.stderr))
    rows = build(runs)
    writers = {"md": to_markdown, "csv": lambda rows, _: to_csv(rows), "json": to_json, "html": page.to_html}
    print(f"{len(runs)} runs, {len(rows)} scores")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        for name in formats:
            path = args.output / f"leaderboard.{name}"
            path.write_text(writers[name](rows, runs), encoding="utf-8")
            print(path)
    except OSError as error:
        raise StcError(f"cannot write to {args.output} ({error.strerror})") from error
    return 0
