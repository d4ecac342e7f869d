"""`stc-lmms bench`: a latency card that compares a method with the unmodified model, stage by stage."""

import argparse

from stc_lmms.bench import options as bench_options

HELP = "latency card: every stage, with and without a method"
DESCRIPTION = "Measures every stage of a model with and without a method, and prints a card of the times."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    bench_options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print the card."""
    options = bench_options.from_arguments(args)
    from stc_lmms.models.qwen_vl import bench as tower_card

    if options.model in tower_card.TOWERS:
        tower_card.run(options)
        return 0
    from stc_lmms.bench.card import run

    run(options)
    return 0
