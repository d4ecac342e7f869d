"""Runs the jobs of a sweep on this machine, several at a time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from stc_lmms.errors import SettingsError
from stc_lmms.eval.stopping import end_with_parent
from stc_lmms.sweep.folder import Sweep, SweepJob
from stc_lmms.sweep.lease import Lease


def gpus() -> list[str]:
    """The GPUs that this process may use, as in `CUDA_VISIBLE_DEVICES`; does not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, _ in enumerate(filter(None, listing.splitlines()))]


def slots(per_job: int, at_once: int | None, needs_gpu: bool) -> list[str | None]:
    """`CUDA_VISIBLE_DEVICES` of every job that runs at the same time; None leaves it unchanged.

    Args:
        per_job: GPUs of a job.
        at_once: number of jobs at the same time; None for as many as the GPUs allow, or one without GPUs.
        needs_gpu: False if all jobs run on the CPU.
    """
    available = gpus() if needs_gpu else []
    if not available:
        return [None] * (at_once or 1)
    groups = [",".join(available[i : i + per_job]) for i in range(0, len(available) - per_job + 1, per_job)]
    if not groups or (at_once or 1) > len(groups):
        jobs = f"{at_once or 1} jobs at once with {per_job} GPUs each"
        raise SettingsError(f"{jobs} do not fit the {len(available)} GPUs here; lower --jobs or gpus_per_job")
    return list(groups[:at_once])


def run(
    sweep: Sweep,
    lease: Lease,
    jobs: Sequence[SweepJob],
    devices: Sequence[str | None],
    report: Callable[[str], None],
) -> bool:
    """Run jobs, most expensive first; a failed job does not stop the others.

    On Ctrl-C, SIGTERM, a closed terminal, or when this process dies, running jobs finish their questions.

    Args:
        sweep: the sweep of the jobs.
        lease: the lease on its folder, kept alive.
        jobs: the jobs.
        devices: see `slots`.
        report: receives a line for every job that has ended.

    Returns:
        Whether all jobs ended by themselves; False if they were stopped.
    """
    waiting = sorted(jobs, key=lambda job: -job.cost)
    free, running = list(devices), []
    stop_signals: list[int] = []  # received so far
    forwarded = False
    stopping = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        stopping.append(signal.SIGHUP)
    before = {
        number: signal.signal(number, lambda number, _: stop_signals.append(number)) for number in stopping
    }
    try:
        while waiting or running:
            while waiting and free:
                job, device = waiting.pop(0), free.pop(0)
                running.append((_start(sweep, job, device), job, device))
            time.sleep(0.2)
            lease.touch()
            if stop_signals and not forwarded:
                forwarded = True
                waiting.clear()
                for process, _, _ in running:
                    process.terminate()
            for ended in [entry for entry in running if entry[0].poll() is not None]:
                running.remove(ended)
                _, job, device = ended
                free.append(device)
                status = job.status()
                reason = f" ({status['reason']})" if status["reason"] else ""
                report(f"{job.name}: {status['state']}{reason}")
    finally:
        for process, _, _ in running:  # none, unless an exception was raised
            process.terminate()
        for process, _, _ in running:
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    return not stop_signals


def _start(sweep: Sweep, job: SweepJob, device: str | None) -> subprocess.Popen:
    environ = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": device} if device is not None else {})
    command = [sys.executable, "-m", "stc_lmms.sweep.worker", str(sweep.root.resolve()), str(job.index)]
    # A session of its own: Ctrl-C reaches only this process, which then stops the workers.
    return subprocess.Popen(command, env=environ, start_new_session=True, preexec_fn=end_with_parent)
