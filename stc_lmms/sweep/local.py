"""Runs the jobs of a sweep on this machine, a bounded number at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from stc_lmms.errors import SettingsError
from stc_lmms.eval.stopping import end_with_parent
from stc_lmms.sweep.folder import Sweep, SweepJob
from stc_lmms.sweep.lease import Lease


def gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    found = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, _ in enumerate(filter(None, found.splitlines()))]


def slots(per_job: int, at_once: int | None, needs_gpu: bool) -> list[str | None]:
    """Devices of every job that runs at once, for `CUDA_VISIBLE_DEVICES`; None leaves it as it is.

    Args:
        per_job: GPUs of a job.
        at_once: jobs at once; None is as many as there are GPUs for, one where there is none.
        needs_gpu: False if all run on the CPU.

    Raises:
        SettingsError: there are too few GPUs.
    """
    there = gpus() if needs_gpu else []
    if not there:
        return [None] * (at_once or 1)
    fit = [",".join(there[i : i + per_job]) for i in range(0, len(there) - per_job + 1, per_job)]
    if not fit or (at_once or 1) > len(fit):
        wanted = f"{at_once or 1} jobs at once with {per_job} GPUs each"
        raise SettingsError(f"{wanted} do not fit the {len(there)} GPUs here; lower --jobs or gpus_per_job")
    return list(fit[:at_once])


def run(
    sweep: Sweep,
    lease: Lease,
    jobs: Sequence[SweepJob],
    places: Sequence[str | None],
    tell: Callable[[str], None],
) -> bool:
    """Run the jobs, the dearest first; one that fails does not stop the others.

    Ctrl-C, SIGTERM and a closed terminal let the running ones finish their questions; so does the end of this
    process, however it ends.

    Args:
        sweep: whose jobs they are.
        lease: on its folder, to be touched.
        jobs: to be run.
        places: see `slots`.
        tell: is given a line for every job that ended.

    Returns:
        Whether they ran to an end, or were stopped.
    """
    waiting = sorted(jobs, key=lambda job: -job.cost)
    free, running = list(places), []
    stopped = told = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    before = {number: signal.signal(number, stop) for number in _stopping()}
    try:
        while waiting or running:
            while waiting and free:
                job, place = waiting.pop(0), free.pop(0)
                running.append((_start(sweep, job, place), job, place))
            time.sleep(0.2)
            lease.touch()
            if stopped and not told:
                told = True
                waiting.clear()
                _stop([process for process, _, _ in running])
            for ended in [each for each in running if each[0].poll() is not None]:
                running.remove(ended)
                free.append(ended[2])
                status = ended[1].status()
                tell(f"{ended[1].name}: {status['state']}{_because(status['reason'])}")
    finally:
        left = [process for process, _, _ in running]  # none, unless an exception leaves this
        _stop(left)
        for process in left:
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    return not stopped


def _stopping() -> list[signal.Signals]:
    """Signals that stop it; under nohup, SIGHUP is none."""
    found = [signal.SIGINT, signal.SIGTERM]
    return found if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*found, signal.SIGHUP]


def _stop(processes: Iterable[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()


def _start(sweep: Sweep, job: SweepJob, place: str | None) -> subprocess.Popen:
    environ = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": place} if place is not None else {})
    command = [sys.executable, "-m", "stc_lmms.sweep.worker", str(sweep.root.resolve()), str(job.index)]
    # a session of its own: Ctrl-C comes to this process alone, which tells the workers
    return subprocess.Popen(command, env=environ, start_new_session=True, preexec_fn=end_with_parent)


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
