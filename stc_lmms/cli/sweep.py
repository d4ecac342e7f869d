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

from stc_lmms.errors import SettingsError, StcError
from stc_lmms.suggest import unknown
from stc_lmms.sweep import local, slurm
from stc_lmms.sweep.folder import Sweep, create, read_json, write_json
from stc_lmms.sweep.lease import Lease, holder_of, is_free

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

    def add(name: str, action: object, help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text)
        command.set_defaults(action=action)
        if name == "start":
            command.add_argument("spec", type=Path, metavar="SWEEP.yaml")
        else:
            command.add_argument("folder", type=Path)
        return command

    _add_execution(add("start", _start, "plan and start a sweep; the word can be omitted"))
    _add_execution(add("resume", _resume, "run whatever is not done; no question is answered twice"))
    status = add("status", _status, "a table of what is done, running and failed, and the time left")
    status.add_argument("--watch", type=float, metavar="SECONDS", help="refresh the table until the end")
    status.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    add("cancel", _cancel, "stop all jobs; resume continues them")
    logs = add("logs", _logs, "the log of a job, or the ends of the logs of all failed ones")
    logs.add_argument("job", nargs="?", help="recipe/task/shard, as printed by status")
    add("merge", _merge, "merge the shards and rebuild the leaderboard")


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return args.action(args)


def _add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--executor", choices=EXECUTORS, default="local", help="default: local")
    parser.add_argument("--jobs", type=int, metavar="N", help="local: jobs at once (default: one per GPU)")
    parser.add_argument("--partition", help="Slurm; this and all below override `slurm:` in the file")
    parser.add_argument("--account")
    parser.add_argument("--qos")
    parser.add_argument("--time", help="time limit of a job, such as 4:00:00; it resumes after it")
    parser.add_argument("--nodes", type=int, help="nodes that the sweep uses at once")
    parser.add_argument("--gpus-per-node", type=int)
    parser.add_argument("--cpus-per-job", type=int)
    parser.add_argument("--mem-per-job", help="such as 64G")
    parser.add_argument("--array-limit", type=int, metavar="N", help="jobs at once, of this start or resume")


def _slurm_arguments(args: argparse.Namespace) -> dict:
    """The Slurm options that were given."""
    names = [field.name for field in dataclasses.fields(slurm.SlurmOptions)]
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def _start(args: argparse.Namespace) -> int:
    from stc_lmms.sweep import shards, spec

    wanted = spec.read(args.spec, **_slurm_arguments(args))
    if args.executor == "slurm":
        slurm.check(wanted.slurm)
    plan = spec.make_plan(wanted)
    with Lease(wanted.output / "lease", str(wanted.output)) as lease:
        sweep = create(wanted.output, plan)
        if in_slurm := _jobs_in_slurm(sweep, args.executor):
            ids = ", ".join(sorted({element.array for element in in_slurm.values()}))
            user = f"Slurm array {ids} ({len(in_slurm)} jobs)"
            cure = "see stc-lmms sweep status, or continue with sweep resume"
            raise StcError(f"{sweep.root} is in use by {user}; {cure}")
        write_json(sweep.root / "slurm_options.json", dataclasses.asdict(wanted.slurm))
        count = len(plan["jobs"])
        print(f"{sweep.root}: {count} jobs of {len(plan['recipes'])} recipes on {', '.join(plan['tasks'])}")
        if split := sum(shards.count_split(job.videos, plan["gpus_per_job"]) for job in sweep.jobs):
            print(f"{split} videos are played by two processes of a job each: more shards may avoid that")
        return _execute(sweep, lease, wanted.slurm, args, {})


def _resume(args: argparse.Namespace) -> int:
    sweep = Sweep(args.folder)
    stored = read_json(sweep.root / "slurm_options.json") or {}
    options = slurm.SlurmOptions(**stored | _slurm_arguments(args))
    with Lease(sweep.root / "lease", str(sweep.root)) as lease:
        return _execute(sweep, lease, options, args, _jobs_in_slurm(sweep, args.executor))


def _jobs_in_slurm(sweep: Sweep, executor: str) -> dict[int, slurm.Element]:
    """Jobs that Slurm has. If it cannot be asked and is not to run them: none, with a warning."""
    try:
        found = slurm.queued(sweep)
        if ending := slurm.ending(found):
            print(f"waiting for {ending} jobs that Slurm is ending", file=sys.stderr)
            found = slurm.settled(sweep)
        return found
    except StcError as error:
        if executor == "slurm":
            raise
        why = "jobs in Slurm's queue are unknown here; one that is running is left alone"
        print(f"stc-lmms: {why}: {error}", file=sys.stderr)
        return {}


def _execute(
    sweep: Sweep, lease: Lease, options: slurm.SlurmOptions, args: argparse.Namespace, queued: dict
) -> int:
    """Start what is neither done nor in Slurm's queue."""
    from stc_lmms.sweep.status import unfinished

    jobs = unfinished(sweep, excluded=queued)
    if ending := slurm.ending(queued):
        print(f"{ending} jobs are still ending; resume again in a moment")
    if running := sum(job.status()["state"] == "running" for job in sweep.jobs if job.index not in queued):
        print(f"{running} jobs seem to run and are left alone; if they do not, resume again in two minutes")
    if not jobs:
        print("nothing is left to start")
        return 0
    gpus_per_job = sweep.plan["gpus_per_job"]
    if args.executor == "local":
        cpu = all(recipe["device"] == "cpu" for recipe in sweep.plan["recipes"].values())
        if args.jobs is not None and args.jobs < 1:
            raise SettingsError(f"--jobs {args.jobs} must be at least 1")
        devices = local.slots(gpus_per_job, args.jobs, needs_gpu=not cpu)
        if not local.run(sweep, lease, jobs, devices, lambda line: print(line, flush=True)):
            print(f"stopped; continue with: stc-lmms sweep resume {sweep.root}")
            return 130
        return _merge(argparse.Namespace(folder=sweep.root))
    if args.executor == "slurm":
        slurm.check(options)
    scripts = slurm.write_scripts(sweep, [job.index for job in jobs], options)
    in_sequence = len(jobs) > (options.at_once(gpus_per_job) or len(jobs))
    if args.executor == "print":
        print("\n".join(slurm.commands(scripts, in_sequence)))
        return 0
    ids = ", ".join(slurm.submit(sweep, scripts, in_sequence))
    print(f"submitted {len(jobs)} jobs as Slurm array {ids}; now: stc-lmms sweep status {sweep.root}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from stc_lmms.sweep.status import as_json, status, text

    sweep = Sweep(args.folder)
    while True:
        try:
            found = status(sweep, slurm.queued(sweep))
        except StcError as error:  # this machine may have no Slurm; all else is in the folder
            print(f"stc-lmms: queued jobs are shown as waiting: {error}", file=sys.stderr)
            found = status(sweep)
        if args.watch and sys.stdout.isatty() and not args.json:
            print("\x1b[2J\x1b[H", end="")
        print(json.dumps(as_json(found), indent=1) if args.json else text(found), flush=True)
        if not args.watch or not any(found.count(state) for state in ("running", "queued")):
            return 0
        time.sleep(args.watch)


def _cancel(args: argparse.Namespace) -> int:
    sweep = Sweep(args.folder)
    lease = sweep.root / "lease"
    holder = holder_of(lease)
    here = not holder or holder["host"] == socket.gethostname()
    if holder and here and not is_free(lease):  # the id of a killed holder may be another process by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder["pid"], signal.SIGTERM)
        print(f"asked process {holder['pid']} to stop; its jobs finish their questions")
    for array in slurm.cancel(sweep):
        print(f"cancelled Slurm array {array}")
    if not here:
        raise StcError(f"{sweep.root} is run by process {holder['pid']} on {holder['host']}; cancel it there")
    return 0


def _logs(args: argparse.Namespace) -> int:
    sweep = Sweep(args.folder)
    jobs = {job.name: job for job in sweep.jobs}
    if args.job is not None and args.job not in jobs:
        raise SettingsError(unknown("job", args.job, list(jobs)[:20]))
    slurm_logs = slurm.logs(sweep)
    for job in [jobs[args.job]] if args.job else jobs.values():
        log = job.path / "log.txt"
        failed_at_start = job.index in slurm_logs and not log.exists()
        if not (args.job or failed_at_start or job.status()["state"] in ("failed", "lost", "stopped")):
            continue
        log = slurm_logs[job.index] if failed_at_start else log
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        print(f"== {job.name}: {log}")
        print("\n".join(lines if args.job else lines[-_LOG_LINES:]))
    return 0


def _merge(args: argparse.Namespace) -> int:
    from stc_lmms.cli import leaderboard
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
        print(f"continue with: stc-lmms sweep resume {sweep.root}")
    if merged:
        formats = ",".join(name for name in leaderboard.FORMATS if name != "html" or find_spec("jinja2"))
        where = {"folders": [sweep.root / "merged"], "output": sweep.root / "leaderboard"}
        leaderboard.run(argparse.Namespace(**where, format=formats))
    return 1 if left_out else 0
