"""What `stc-lmms` passes on to lmms-eval, with our models and tasks added to it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

COMMANDS = ("eval", "tasks", "models", "ui", "serve", "power", "version", "mcp", "tui")


def handles(argv: Sequence[str]) -> bool:
    """Whether this command line is lmms-eval's: one of its commands, or options without a command."""
    if not argv:
        return False
    return argv[0] in COMMANDS or (argv[0].startswith("--") and argv[0] not in ("--help", "--version"))


def run(argv: list[str]) -> int:
    """Run lmms-eval's command line; 1 if an evaluation failed."""
    from stc_lmms.eval.stopping import end_with_launcher
    from stc_lmms.plugin import install_task_discovery

    end_with_launcher()
    install_task_discovery()
    from lmms_eval.cli.dispatch import main as lmms_eval_main

    sys.argv = ["lmms-eval", *argv]
    if argv[0] != "eval" and not argv[0].startswith("--"):
        lmms_eval_main()
        return 0
    with _failed_evaluations() as failed:
        lmms_eval_main()
    return 1 if failed else 0


@contextmanager
def _failed_evaluations() -> Iterator[list[BaseException]]:
    """Collect the exceptions of evaluations: lmms-eval prints their traceback, but exits with status 0."""
    import lmms_eval.__main__ as module

    evaluate, failed = module.cli_evaluate_single, []

    def cli_evaluate_single(*args: object) -> object:
        try:
            return evaluate(*args)
        except Exception as error:
            failed.append(error)
            raise

    module.cli_evaluate_single = cli_evaluate_single
    try:
        yield failed
    finally:
        module.cli_evaluate_single = evaluate
