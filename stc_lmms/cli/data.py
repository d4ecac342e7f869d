"""`stc-lmms data`: download a benchmark, and check its videos."""

import argparse
import json
from pathlib import Path

HELP = "fetch and check benchmark data"
DESCRIPTION = "Downloads and unpacks a benchmark (fetch), or checks that its videos are usable (verify)."
FETCHED = ("ovobench", "streamingbench")
CHECKED = (*FETCHED, "mlvu", "egoschema", "videomme", "ovobench_mini", "streamingbench_mini")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(metavar="action", required=True)
    fetch = actions.add_parser("fetch", help="download and unpack a benchmark")
    fetch.add_argument("benchmark", choices=FETCHED)
    fetch.add_argument("--to", type=Path, required=True, help="folder to fill")
    fetch.add_argument("--delete-parts", action="store_true", help="delete each archive once it is unpacked")
    fetch.set_defaults(action=_fetch)
    check = actions.add_parser("verify", help="report missing, undecodable, truncated and too short videos")
    check.add_argument("benchmark", choices=CHECKED)
    check.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    check.set_defaults(action=_verify)
    for each in (fetch, check):
        each.add_argument("--parts", type=lambda text: text.split(","), help="only these, comma-separated")


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return args.action(args)


def _fetch(args: argparse.Namespace) -> int:
    from stc_lmms.data import BENCHMARKS, fetch

    root = fetch(args.benchmark, args.to, args.parts, delete_parts=args.delete_parts)
    print(f"ready; now: export {BENCHMARKS[args.benchmark].variable}={root}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from stc_lmms.data import verify
    from stc_lmms.data.rows import needed_videos
    from stc_lmms.video.decode import probe

    benchmark, mini, _ = args.benchmark.partition("_mini")
    root, needed = needed_videos(benchmark, args.parts, mini.removeprefix("_"))
    report = verify(args.benchmark, root, needed, probe)
    print(json.dumps(report.to_dict(), indent=1) if args.json else report.text())
    return 0 if report.ok else 1
