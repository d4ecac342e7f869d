"""`stc-lmms data`: download benchmark data and check the videos on disk."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the `fetch` and `verify` sub-commands."""
    commands = parser.add_subparsers(metavar="what", required=True)
    fetch = commands.add_parser("fetch", help="download and unpack a benchmark")
    fetch.add_argument("benchmark", choices=["ovobench", "streamingbench"])
    fetch.add_argument("--to", type=Path, required=True, help="folder to fill")
    fetch.add_argument("--parts", type=lambda text: text.split(","), help="only these, with commas")
    fetch.add_argument("--delete-parts", action="store_true", help="delete each archive once it is unpacked")
    fetch.set_defaults(run=_fetch)
    check = commands.add_parser("verify", help="report missing, undecodable, cut off and too short videos")
    check.add_argument(
        "benchmark",
        choices=[
            "ovobench",
            "streamingbench",
            "mlvu",
            "egoschema",
            "videomme",
            "ovobench_mini",
            "streamingbench_mini",
        ],
    )
    check.add_argument("--parts", type=lambda text: text.split(","), help="only these, with commas")
    check.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    check.set_defaults(run=_verify)


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
