"""`stc-lmms compare`: methods at equal budgets on the same questions, weights loaded once."""

import argparse
import json
import os
import sys
from pathlib import Path

from stc_lmms.arguments import parse_pair, parse_pairs
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.models.registry import model

HELP = "methods at equal budgets, in one process"
DESCRIPTION = (
    "Runs every method at every budget through lmms-eval's evaluator, in one process, and prints accuracy "
    "and cost. Repeat the command with the same output to resume an interrupted run."
)
_OWN_OPTIONS = {"method": "--methods", "token_budget": "--budgets"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--methods", required=True, help="comma-separated; the others are compared to none if it is given"
    )
    parser.add_argument("--tasks", required=True, help="tasks of this package, comma-separated")
    parser.add_argument(
        "--budgets", help="LLM tokens per frame, comma-separated (default: the checkpoint's token_budget)"
    )
    vary = "run every value of this argument, for the methods that have it (may be repeated)"
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=V1,V2,...", help=vary)
    parser.add_argument("--model", default="llava_ov", help="see `stc-lmms methods` (default: llava_ov)")
    parser.add_argument(
        "--model_args", "--model-args", default="", help="arguments of all runs: name=value,..."
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows (videos) of each task")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Run all configurations and print the table; 0 if none failed, where skipped ones do not count."""
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise SettingsError("compare runs in one process; start it without torchrun or accelerate launch")
    chosen = model(args.model)
    methods, tasks = _names("--methods", args.methods), _names("--tasks", args.tasks)
    budgets = None if args.budgets is None else _budgets(args.budgets)
    varied = _varied(args.vary)
    if args.limit is not None and args.limit < 1:
        raise SettingsError(f"--limit {args.limit} must be at least 1")
    if args.seed < 0:
        raise SettingsError(f"--seed {args.seed} must be 0 or more")
    from stc_lmms.settings import resolve

    common = parse_pairs(args.model_args, "--model_args")
    for name, option in (_OWN_OPTIONS | dict.fromkeys(varied, "--vary")).items():
        if name in common:
            raise SettingsError(f"--model_args: give {name} with {option}")
    from stc_lmms.eval.experiments import configurations, run_grid
    from stc_lmms.results.grid import by_question, rows, text
    from stc_lmms.results.write import write_text

    if budgets is None:
        # Other arguments may belong to other methods, or depend on one that is varied.
        checkpoint = {name: common[name] for name in ("pretrained",) if name in common}
        budgets = [resolve(checkpoint | {"method": "stc"}, model=chosen.name).options["token_budget"]]
    grid = configurations(methods, budgets, varied)
    about = {"model": chosen.name, "tasks": tasks, "limit": args.limit, "seed": args.seed}
    about["model_args"] = common
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StcError(f"cannot create the folder {args.output} ({error.strerror})") from error
    outcomes = []
    for outcome in run_grid(grid, tasks, common, args.output, args.limit, chosen.name):
        outcomes.append(outcome)
        state = f"skipped: {outcome.error}" if outcome.skipped else outcome.error or "done"
        step = f"{len(outcomes)} of {len(grid)}, {outcome.cell.name}"
        print(f"stc-lmms: {step}: {state}", file=sys.stderr)
        table = rows(outcomes, args.seed)
        write_text(args.output / "compare.json", json.dumps(about | {"rows": table}, indent=1) + "\n")
        write_text(args.output / "scores.json", json.dumps(by_question(outcomes)) + "\n")
    import torch

    print(text(table, on_gpu=torch.cuda.is_available() and common.get("device") != "cpu"))
    return 1 if any(o.error and not o.skipped for o in outcomes) else 0


def _names(option: str, text: str) -> list[str]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise SettingsError(f"{option} is empty")
    return names


def _varied(texts: list[str]) -> dict[str, list[str]]:
    varied = {}
    for text in texts:
        name, values = parse_pair(text, "--vary", form="name=value,value,...")
        if name in _OWN_OPTIONS:
            raise SettingsError(f"--vary: give {name} with {_OWN_OPTIONS[name]}")
        varied[name] = _names(f"--vary {name}", values)
    return varied


def _budgets(text: str) -> list[int]:
    budgets = []
    for name in _names("--budgets", text):
        if not name.isdecimal() or int(name) < 1:
            raise SettingsError(f"--budgets: {name!r} is not a whole number above 0")
        budgets.append(int(name))
    return budgets
