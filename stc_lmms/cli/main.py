"""`stc-lmms`: our own commands; everything else goes to lmms-eval, with our models and tasks in it."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stc_lmms import __version__
from stc_lmms.bench import options as bench_options
from stc_lmms.cli import compare as compare_command
from stc_lmms.cli import leaderboard as leaderboard_command
from stc_lmms.cli import plan as plan_command
from stc_lmms.cli import run as run_command
from stc_lmms.cli import show as show_command
from stc_lmms.cli import stream as stream_command
from stc_lmms.cli import sweep as sweep_command
from stc_lmms.errors import StcError

HARNESS_COMMANDS = ("eval", "tasks", "models", "ui", "serve", "power", "version", "mcp", "tui")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors that the user can act on are one line and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and (
        argv[0] in HARNESS_COMMANDS or (argv[0].startswith("--") and argv[0] not in ("--help", "--version"))
    ):
        return _harness(argv)
    args = _parser().parse_args(sweep_command.with_default(argv))
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        return args.run(args)
    except StcError as error:
        print(f"stc-lmms: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stc-lmms",
        description="Streaming token compression and streaming benchmarks. "
        f"All else is passed to lmms-eval ({', '.join(HARNESS_COMMANDS)}, or --model ... --tasks ...).",
    )
    parser.add_argument("--version", action="version", version=f"stc-lmms {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    methods = commands.add_parser("methods", help="list methods, memories, models and their arguments")
    methods.add_argument("--model", help="only what this model takes, with its defaults (default: all)")
    methods.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    methods.set_defaults(run=_methods)

    report = commands.add_parser("report", help="accuracy and efficiency tables of finished runs")
    report.add_argument("folders", nargs="+", type=Path, help="output paths of lmms-eval runs")
    report.set_defaults(run=_report)

    board = commands.add_parser(
        "leaderboard",
        help="all runs as tables and one HTML page",
        description=leaderboard_command.DESCRIPTION,
    )
    leaderboard_command.add_arguments(board)
    board.set_defaults(run=leaderboard_command.run)

    stream = commands.add_parser(
        "stream",
        help="answer while a video, camera or network stream goes on",
        description=stream_command.DESCRIPTION,
    )
    stream_command.add_arguments(stream)
    stream.set_defaults(run=stream_command.run)

    compare = commands.add_parser(
        "compare", help="methods at equal budgets, in one go", description=compare_command.DESCRIPTION
    )
    compare_command.add_arguments(compare)
    compare.set_defaults(run=compare_command.run)

    show = commands.add_parser(
        "show", help="a picture of what a method recomputes and keeps", description=show_command.DESCRIPTION
    )
    show_command.add_arguments(show)
    show.set_defaults(run=show_command.run)

    bench = commands.add_parser("bench", help="latency card: every stage, dense against a method")
    bench_options.add_arguments(bench)
    bench.set_defaults(run=_bench)

    plan = commands.add_parser(
        "plan", help="what a benchmark reads and costs", description=plan_command.DESCRIPTION
    )
    plan_command.add_arguments(plan)
    plan.set_defaults(run=plan_command.run)

    run = commands.add_parser("run", help="run one recipe", description=run_command.DESCRIPTION)
    run_command.add_arguments(run)
    run.set_defaults(run=lambda args: run_command.run(args, _harness))

    sweep = commands.add_parser(
        "sweep", help="many recipes on many GPUs", description=sweep_command.DESCRIPTION
    )
    sweep_command.add_arguments(sweep)

    data = commands.add_parser("data", help="fetch and check benchmark data").add_subparsers(
        metavar="what", required=True
    )
    fetch = data.add_parser("fetch", help="download and unpack a benchmark")
    fetch.add_argument("benchmark", choices=["ovobench", "streamingbench"])
    fetch.add_argument("--to", type=Path, required=True, help="folder to fill")
    fetch.add_argument("--parts", type=lambda text: text.split(","), help="only these, with commas")
    fetch.add_argument("--delete-parts", action="store_true", help="delete each archive once it is unpacked")
    fetch.set_defaults(run=_fetch)
    check = data.add_parser("verify", help="report missing, undecodable, cut off and too short videos")
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
    check.set_defaults(run=_check_data)
    return parser


def _methods(args: argparse.Namespace) -> int:
    from stc_lmms.methods.listing import as_text, facts, memories, models

    if args.json:
        listed = {kind.__name__: kind(args.model) for kind in (memories, models)}
        print(json.dumps({"methods": facts(args.model)} | listed, indent=1))
    else:
        print(as_text(args.model))
    return 0


def _report(args: argparse.Namespace) -> int:
    from stc_lmms.results.tables import render

    print(render(args.folders))
    return 0


def _bench(args: argparse.Namespace) -> int:
    options = bench_options.from_arguments(args)
    from stc_lmms.models.qwen_vl import bench as tower_card

    if options.model in tower_card.TOWERS:
        tower_card.run(options)
        return 0
    from stc_lmms.bench.card import run

    run(options)
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from stc_lmms.data import BENCHMARKS, fetch

    root = fetch(args.benchmark, args.to, args.parts, delete_parts=args.delete_parts)
    print(f"ready; now: export {BENCHMARKS[args.benchmark].variable}={root}")
    return 0


def _check_data(args: argparse.Namespace) -> int:
    from stc_lmms.data import verify
    from stc_lmms.data.rows import needed_videos
    from stc_lmms.video.decode import probe

    benchmark, mini, _ = args.benchmark.partition("_mini")
    root, needed = needed_videos(benchmark, args.parts, mini.removeprefix("_"))
    report = verify(args.benchmark, root, needed, probe)
    print(json.dumps(report.to_dict(), indent=1) if args.json else report.text())
    return 0 if report.ok else 1


def _harness(argv: list[str]) -> int:
    from stc_lmms.eval.stopping import end_with_launcher
    from stc_lmms.plugin import install_task_discovery

    end_with_launcher()
    install_task_discovery()
    from lmms_eval.cli.dispatch import main as lmms_eval_main

    sys.argv = ["lmms-eval", *argv]
    if argv[0] != "eval" and not argv[0].startswith("--"):
        lmms_eval_main()
        return 0
    with _broken_evaluations() as broken:
        lmms_eval_main()
    return 1 if broken else 0


@contextmanager
def _broken_evaluations() -> Iterator[list[BaseException]]:
    """What evaluations raised: lmms-eval prints the traceback, and exits with status 0."""
    import lmms_eval.__main__ as module

    evaluate, raised = module.cli_evaluate_single, []

    def cli_evaluate_single(*args: object) -> object:
        try:
            return evaluate(*args)
        except Exception as error:
            raised.append(error)
            raise

    module.cli_evaluate_single = cli_evaluate_single
    try:
        yield raised
    finally:
        module.cli_evaluate_single = evaluate


if __name__ == "__main__":
    sys.exit(main())
