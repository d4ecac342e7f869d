"""`stc-lmms data`: download a benchmark, and check its videos."""

import argparse
import json
from pathlib import Path

from stc_lmms.benchmarks.benchmark import MINI
from stc_lmms.benchmarks.registry import BENCHMARKS, find_label

HELP = "fetch and check benchmark data"
DESCRIPTION = "Downloads and unpacks a benchmark (fetch), or checks that its videos are usable (verify)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; the choices are those of the registry."""
    actions = parser.add_subparsers(metavar="action", required=True)
    fetch = actions.add_parser("fetch", help="download and unpack a benchmark")
    fetchable = [name for name, found in BENCHMARKS.items() if found.source.fetchable]
    fetch.add_argument("benchmark", choices=fetchable)
    fetch.add_argument("--to", type=Path, required=True, help="folder to fill")
    fetch.add_argument("--delete-parts", action="store_true", help="delete each archive once it is unpacked")
    fetch.set_defaults(action=_fetch)
    check = actions.add_parser("verify", help="report missing, undecodable, truncated and too short videos")
    sizes = [(found, size) for size in ("", MINI) for found in BENCHMARKS.values() if size in found.sizes]
    check.add_argument("benchmark", choices=[found.label(size) for found, size in sizes])
    check.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    check.set_defaults(action=_verify)
    for action in (fetch, check):
        action.add_argument("--parts", type=lambda text: text.split(","), help="only these, comma-separated")


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return args.action(args)


def _fetch(args: argparse.Namespace) -> int:
    from stc_lmms.data.download import fetch

    source = BENCHMARKS[args.benchmark].source
    root = fetch(source, args.to, args.parts, delete_parts=args.delete_parts)
    print(f"ready; now run: export {source.variable}={root}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from stc_lmms.data.check import verify
    from stc_lmms.video.decode import probe

    benchmark, size = find_label(args.benchmark)
    root, needed = benchmark.needed_videos(args.parts, size)
    report = verify(args.benchmark, root, needed, probe)
    print(json.dumps(report.to_dict(), indent=1) if args.json else report.text())
    return 0 if report.ok else 1
