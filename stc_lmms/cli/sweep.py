"""`stc-lmms sweep`: start, watch, resume, cancel and merge the runs of many recipes on many tasks."""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stc_lmms.errors import SettingsError, StcError

if TYPE_CHECKING:
    from stc_lmms.sweep.folder import Sweep
    from stc_lmms.sweep.lease import Lease
    from stc_lmms.sweep.slurm import Element
    from stc_lmms.sweep.spec import SlurmOptions

HELP = "many recipes on many GPUs"
DESCRIPTION = (
    "Runs recipes x tasks x shards: stc-lmms sweep SWEEP.yaml, then status, resume, cancel, logs or merge "
    "with the sweep's folder. See docs/cluster.md."
)
COMMANDS = ("start", "status", "resume", "cancel", "logs", "merge")
EXECUTORS = ("local", "slurm", "print")
_LOG_LINES = 30


def with_default(argv: Sequence[str]) -> list[str]:
    """`sweep SWEEP.yaml` is `sweep start SWEEP.yaml`."""
    words = list(argv)
    if len(words) > 1 and words[0] == "sweep" and words[1] not in (*COMMANDS, "-h", "--help"):
        words.insert(1, "start")
    return words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    commands = parser.add_subparsers(metavar="action", required=True)
    start = commands.add_parser("start", help="plan and start a sweep; the word may be left out")
    start.add_argument("spec", type=Path, metavar="SWEEP.yaml")
    _add_execution(start)
    start.set_defaults(action=_start)

    resume = commands.add_parser("resume", help="go on with whatever is not done; nothing is done twice")
    resume.add_argument("folder", type=Path)
    _add_execution(resume)
    resume.set_defaults(action=_resume)

    status = commands.add_parser(
        "status", help="a table of what is done, running and failed, and the time left"
    )
    status.add_argument("folder", type=Path)
    status.add_argument(
        "--watch", type=float, metavar="SECONDS", help="show it again and again until the end"
    )
    status.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    status.set_defaults(action=_status)

    cancel = commands.add_parser("cancel", help="stop all jobs; resume goes on with them")
    cancel.add_argument("folder", type=Path)
    cancel.set_defaults(action=_cancel)

    logs = commands.add_parser("logs", help="the end of a job's log, or of all failed ones")
    logs.add_argument("folder", type=Path)
    logs.add_argument("job", nargs="?", help="recipe/task/shard, as status names it")
    logs.set_defaults(action=_logs)

    merge = commands.add_parser("merge", help="put the shards together, rebuild the leaderboard")
    merge.add_argument("folder", type=Path)
    merge.set_defaults(action=_merge)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return args.action(args)


def _add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--executor", choices=EXECUTORS, default="local", help="default: local")
    parser.add_argument("--jobs", type=int, metavar="N", help="local: jobs at once (default: one per GPU)")
    parser.add_argument("--partition", help="Slurm; this and all below replace `slurm:` in the file")
    parser.add_argument("--account")
    parser.add_argument("--qos")
    parser.add_argument("--time", help="limit of a job, such as 4:00:00; it goes on after it")
    parser.add_argument("--nodes", type=int, help="nodes that the sweep uses at once")
    parser.add_argument("--gpus-per-node", type=int)
    parser.add_argument("--cpus-per-job", type=int)
    parser.add_argument("--mem-per-job", help="such as 64G")
    parser.add_argument("--array-limit", type=int, metavar="N", help="jobs at once, of this start or resume")


def _slurm_arguments(args: argparse.Namespace) -> dict:
    from stc_lmms.sweep.spec import SlurmOptions

    return {f.name: getattr(args, f.name, None) for f in dataclasses.fields(SlurmOptions)}


def _start(args: argparse.Namespace) -> int:
    from stc_lmms.sweep import folder, shards, slurm, spec
    from stc_lmms.sweep.files import write_json
    from stc_lmms.sweep.lease import Lease

    wanted = spec.read(args.spec, **_slurm_arguments(args))
    if args.executor == "slurm":
        slurm.check(wanted.slurm)
    plan = spec.plan(wanted)
    with Lease(wanted.output / "lease", str(wanted.output)) as lease:
        sweep = folder.create(wanted.output, plan)
        held = _in_slurm(sweep, args.executor)
        if held:
            ids = ", ".join(sorted({element.array for element in held.values()}))
            raise StcError(
                f"{sweep.root} is in use by Slurm array {ids} ({len(held)} jobs); see stc-lmms sweep status, "
                "or go on with sweep resume"
            )
        write_json(sweep.root / "slurm_options.json", dataclasses.asdict(wanted.slurm))
        count = len(plan["jobs"])
        print(f"{sweep.root}: {count} jobs of {len(plan['recipes'])} recipes on {', '.join(plan['tasks'])}")
        twice = sum(shards.parted(job.videos, plan["gpus_per_job"]) for job in sweep.jobs)
        if twice:
            print(f"{twice} videos are played by two processes of a job each: more shards may avoid that")
        return _execute(sweep, lease, wanted.slurm, args, {})


def _resume(args: argparse.Namespace) -> int:
    from stc_lmms.sweep.files import read_json
    from stc_lmms.sweep.folder import Sweep
    from stc_lmms.sweep.lease import Lease
    from stc_lmms.sweep.spec import SlurmOptions

    sweep = Sweep(args.folder)
    given = {key: value for key, value in _slurm_arguments(args).items() if value is not None}
    options = SlurmOptions(**(read_json(sweep.root / "slurm_options.json") or {}) | given)
    with Lease(sweep.root / "lease", str(sweep.root)) as lease:
        return _execute(sweep, lease, options, args, _in_slurm(sweep, args.executor))


def _in_slurm(sweep: "Sweep", executor: str) -> dict[int, "Element"]:
    """Jobs that Slurm has; where it cannot be asked, none, with a warning, unless it is to run them."""
    from stc_lmms.sweep import slurm

    try:
        found = slurm.queued(sweep)
        if slurm.ending(found):
            print(f"waiting for {slurm.ending(found)} jobs that Slurm is ending", file=sys.stderr)
            found = slurm.settled(sweep)
        return found
    except StcError as error:
        if executor == "slurm":
            raise
        why = "jobs in Slurm's queue are not known here; one that runs is left alone"
        print(f"stc-lmms: {why}: {error}", file=sys.stderr)
        return {}


def _execute(
    sweep: "Sweep",
    lease: "Lease",
    options: "SlurmOptions",
    args: argparse.Namespace,
    queued: dict[int, "Element"],
) -> int:
    """Start what is not done and not in Slurm's queue."""
    from stc_lmms.sweep import local, slurm
    from stc_lmms.sweep.status import unfinished

    jobs = unfinished(sweep, but=queued)
    ending = slurm.ending(queued)
    if ending:
        print(f"{ending} jobs are still ending; resume again in a moment")
    running = sum(job.status()["state"] == "running" for job in sweep.jobs if job.index not in queued)
    if running:
        print(f"{running} jobs seem to run and are left alone; if they do not, resume again in two minutes")
    if not jobs:
        print("nothing is left to start")
        return 0
    if args.executor == "local":
        cpu = all(recipe["device"] == "cpu" for recipe in sweep.plan["recipes"].values())
        if args.jobs is not None and args.jobs < 1:
            raise SettingsError(f"--jobs {args.jobs} must be at least 1")
        places = local.slots(sweep.plan["gpus_per_job"], args.jobs, needs_gpu=not cpu)
        if not local.run(sweep, lease, jobs, places, lambda line: print(line, flush=True)):
            print(f"stopped; go on with: stc-lmms sweep resume {sweep.root}")
            return 130
        return _merge(argparse.Namespace(folder=sweep.root))
    if args.executor == "slurm":
        slurm.check(options)
    scripts = slurm.write_scripts(sweep, [job.index for job in jobs], options)
    in_turn = len(jobs) > (options.at_once(sweep.plan["gpus_per_job"]) or len(jobs))
    if args.executor == "print":
        print("\n".join(slurm.commands(scripts, in_turn)))
        return 0
    ids = ", ".join(slurm.submit(sweep, scripts, in_turn))
    print(f"submitted {len(jobs)} jobs as Slurm array {ids}; now: stc-lmms sweep status {sweep.root}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from stc_lmms.sweep import slurm
    from stc_lmms.sweep.folder import Sweep
    from stc_lmms.sweep.status import as_json, status, text

    sweep = Sweep(args.folder)
    while True:
        try:
            found = status(sweep, slurm.queued(sweep))
        except StcError as error:  # looked at from a machine without Slurm: all else is in the folder
            print(f"stc-lmms: queued jobs are shown as waiting: {error}", file=sys.stderr)
            found = status(sweep)
        if args.json:
            print(json.dumps(as_json(found), indent=1))
        else:
            clear = "\x1b[2J\x1b[H" if args.watch and sys.stdout.isatty() else ""
            print(clear + text(found), flush=True)
        if not args.watch or not any(found.count(state) for state in ("running", "queued")):
            return 0
        time.sleep(args.watch)


def _cancel(args: argparse.Namespace) -> int:
    from stc_lmms.sweep import slurm
    from stc_lmms.sweep.folder import Sweep
    from stc_lmms.sweep.lease import holder_of, is_free

    sweep = Sweep(args.folder)
    lease = sweep.root / "lease"
    holder = holder_of(lease)
    here = not holder or holder["host"] == socket.gethostname()
    if holder and here and not is_free(lease):  # a killed holder's number may be another process by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder["pid"], signal.SIGTERM)
        print(f"told process {holder['pid']} to stop; its jobs finish their questions")
    for number in slurm.cancel(sweep):
        print(f"cancelled Slurm array {number}")
    if not here:
        raise StcError(f"{sweep.root} is run by process {holder['pid']} on {holder['host']}; cancel it there")
    return 0


def _logs(args: argparse.Namespace) -> int:
    from stc_lmms.suggest import unknown
    from stc_lmms.sweep import slurm
    from stc_lmms.sweep.folder import Sweep

    sweep = Sweep(args.folder)
    names = {job.name: job for job in sweep.jobs}
    if args.job is not None and args.job not in names:
        raise SettingsError(unknown("job", args.job, list(names)[:20]))
    of_slurm = slurm.logs(sweep)
    for job in [names[args.job]] if args.job else names.values():
        state, log = job.status()["state"], job.path / "log.txt"
        never_began = job.index in of_slurm and not log.exists()
        if not args.job and not (state in ("failed", "lost", "stopped") or never_began):
            continue
        log = of_slurm[job.index] if never_began else log
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        print(f"== {job.name}: {log}")
        print("\n".join(lines[-_LOG_LINES:] if not args.job else lines))
    return 0


def _merge(args: argparse.Namespace) -> int:
    from stc_lmms.cli import leaderboard as leaderboard_command
    from stc_lmms.sweep.folder import Sweep
    from stc_lmms.sweep.merge import merge

    sweep = Sweep(args.folder)
    merged, left_out = 0, 0
    for found in merge(sweep):
        merged += bool(found.results)
        left_out += len(found.missing) + bool(found.error)
        if found.error:
            print(f"{found.recipe} is not merged: {found.error}")
        for task, jobs in found.missing.items():
            first = ", ".join(jobs[:3]) + (", ..." if len(jobs) > 3 else "")
            print(f"{found.recipe} on {task}: {len(jobs)} jobs are not done, or lost their samples ({first})")
    print(f"merged {merged} recipes in {sweep.root / 'merged'}")
    if left_out:
        print(f"go on with: stc-lmms sweep resume {sweep.root}")
    if merged:
        formats = [name for name in leaderboard_command.FORMATS if name != "html" or find_spec("jinja2")]
        board = argparse.Namespace(
            folders=[sweep.root / "merged"], output=sweep.root / "leaderboard", format=",".join(formats)
        )
        leaderboard_command.run(board)
    return 1 if left_out else 0
