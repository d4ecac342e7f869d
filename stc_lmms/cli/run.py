"""`stc-lmms run`: one recipe, checked in full before anything is loaded."""

import argparse
from pathlib import Path

from stc_lmms.cli import harness
from stc_lmms.errors import SettingsError
from stc_lmms.eval import run_config

HELP = "run one recipe of model_configs/"
DESCRIPTION = (
    "Runs a recipe of model_configs/, or a YAML file of your own, with lmms-eval. Repeat the command "
    "to resume an interrupted run."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("recipe", help="a name in model_configs/ (see --list), or a YAML file", nargs="?")
    parser.add_argument("--list", action="store_true", help="print the names of all recipes")
    parser.add_argument("--tasks", help="comma-separated, instead of the recipe's")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="instead of the recipe's output_path")
    parser.add_argument(
        "--model_args", "--model-args", default="", help="override model arguments: name=value,..."
    )


def run(args: argparse.Namespace) -> int:
    """Run the recipe, or print the names of all."""
    if args.list:
        for path in sorted(run_config.model_configs_root().glob("*.yaml")):
            first = path.read_text(encoding="utf-8").splitlines()[0]
            print(f"{path.stem:34s}{first.removeprefix('# ')}")
        return 0
    if args.recipe is None:
        raise SettingsError("name a recipe; stc-lmms run --list prints them")
    from stc_lmms.arguments import parse_pairs

    config = run_config.read(args.recipe, parse_pairs(args.model_args, "--model_args"))
    run_config.check(config)
    output = args.output or config.others.get("output_path") or f"results/{config.name}"
    changes = {"tasks": args.tasks} if args.tasks else {}
    return harness.run(config.command_line(output_path=output, log_samples=True, **changes))
