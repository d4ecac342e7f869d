"""Runs one job, on whatever machine it is started: `python -m stc_lmms.sweep.worker FOLDER INDEX`.

On SIGTERM or SIGUSR1 it lets lmms-eval finish its question. Slurm sends SIGUSR1 before a time limit; the
worker then also requeues its Slurm job. Nothing heavy is imported here.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from stc_lmms.errors import StcError
from stc_lmms.eval.shard import VARIABLE
from stc_lmms.eval.stopping import STOPPED, end_with_parent
from stc_lmms.results.journal import header
from stc_lmms.sweep import samples
from stc_lmms.sweep.folder import HEARTBEAT_S, Sweep, SweepJob, write_json
from stc_lmms.sweep.lease import STALE_S, Held, Lease, me
from stc_lmms.sweep.reason import reason

DONE, FAILED = 0, 1
STALLS = 2  # consecutive attempts that were stopped before they answered anything; then the job fails
LEASE_WAIT_S = STALE_S + 30.0  # by then a killed worker's lmms-eval has ended, or its machine is gone
_FINISH_S = 86_400  # time that torchrun gives its ranks to finish their questions; its default is 30 s


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; exit status 0: done, 1: failed, 2: could not start, 75: stopped."""
    folder, index = list(sys.argv[1:] if argv is None else argv)
    try:
        sweep = Sweep(Path(folder))
        return Worker(sweep, sweep.job(int(index))).run()
    except Held as error:
        print(f"stc-lmms: {error}", file=sys.stderr)
        return STOPPED
    except StcError as error:
        print(f"stc-lmms: error: {error}", file=sys.stderr)
        return 2


def command(sweep: Sweep, job: SweepJob) -> list[str]:
    """The job's lmms-eval command; uses torchrun for several GPUs."""
    recipe, gpus = sweep.plan["recipes"][job.recipe], sweep.plan["gpus_per_job"]
    args = ",".join(f"{name}={value}" for name, value in recipe["model_args"].items())
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"] if gpus > 1 else []
    device = ["--device", recipe["device"]] if recipe["device"] != "auto" else []
    return [
        *(sys.executable, *launch, "-m", "stc_lmms.cli", "--model", recipe["model"], "--model_args", args),
        *("--tasks", ",".join(job.leaves), "--batch_size", str(recipe["batch_size"]), *device),
        *("--output_path", str(job.out), "--log_samples"),
    ]


class Worker:
    """One attempt at a job."""

    def __init__(self, sweep: Sweep, job: SweepJob):
        self.sweep, self.job = sweep, job
        self.stop: int | None = None  # the first signal that asked it to stop
        self.progress = Progress(job.out / "stc_journal")
        self.status: dict[str, Any] = {}
        self.heartbeat_error = ""  # why the last heartbeat could not be written
        self.log, self.log_start = job.path / "log.txt", 0  # where this attempt starts in it

    def run(self) -> int:
        """Run the job, unless it is done; returns the exit status of `main`."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.ask_to_stop)
        with Lease(self.job.path / "lease", f"job {self.job.name}", LEASE_WAIT_S) as lease:
            before = self.job.status()
            if before["state"] == "done" and not samples.missing(self.job):
                print(f"stc-lmms: job {self.job.name} is already done", file=sys.stderr)
                return DONE
            answered = self.progress.read()
            self.status = me() | {"attempt": before["attempt"] + 1, "stalls": before.get("stalls", 0)}
            return self._finish(self._lmms_eval(lease, before["seconds"]), answered)

    def ask_to_stop(self, number: int, frame: object) -> None:
        """Signal handler: request that lmms-eval stops."""
        self.stop = self.stop or number  # at the time limit itself, Slurm adds SIGTERM to SIGUSR1

    def _lmms_eval(self, lease: Lease, spent_s: float) -> int:
        """Run lmms-eval with a heartbeat; returns its exit status."""
        write_json(self.job.path / "shard.json", {"rows": self.job.videos})
        recipe, environ = self.sweep.plan["recipes"][self.job.recipe], dict(os.environ)
        environ[VARIABLE] = str((self.job.path / "shard.json").resolve())
        if recipe["device"] == "cpu" and self.sweep.plan["gpus_per_job"] > 1:
            environ["ACCELERATE_USE_CPU"] = "true"
        environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_FINISH_S))
        start_s, forwarded = time.monotonic(), False
        with self._open_log() as log:
            process = subprocess.Popen(
                command(self.sweep, self.job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environ,
                pass_fds=(lease.fd,),  # while it outlives a killed worker, no other worker starts the job
                preexec_fn=end_with_parent,  # it then finishes its question and ends
            )
            last_beat_s = -float(HEARTBEAT_S)
            while process.poll() is None:
                now_s = time.monotonic() - start_s
                if now_s - last_beat_s >= HEARTBEAT_S:
                    last_beat_s = now_s
                    self.status["seconds"] = spent_s + now_s
                    self._heartbeat(lease)
                if self.stop is not None and not forwarded:
                    forwarded = True
                    process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
        self.status["seconds"] = spent_s + time.monotonic() - start_s
        return process.returncode

    def _open_log(self) -> IO[bytes]:
        try:
            log = self.log.open("ab", buffering=0)
            self.log_start = log.tell()
            log.write(f"\n--- attempt {self.status['attempt']}, {time.ctime()}, {me()}\n".encode())
        except OSError as error:
            raise StcError(f"cannot write {self.log} ({error.strerror}); make room, then resume") from None
        return log

    def _heartbeat(self, lease: Lease) -> None:
        """A heartbeat that cannot be written must not end lmms-eval, which may still finish."""
        try:
            lease.touch()
            self._write("running")
            self.heartbeat_error = ""
        except (OSError, StcError) as error:
            self.heartbeat_error = str(error)

    def _finish(self, status: int, answered_before: tuple[int, int]) -> int:
        """Record how lmms-eval ended; returns the worker's exit status."""
        if status == 0:
            missing = samples.missing(self.job)
            self._write("failed" if missing else "done", missing)
            return FAILED if missing else DONE
        if self.stop is None and status != STOPPED:
            self._write("failed", self.heartbeat_error or reason(status, self.log, self.log_start))
            return FAILED
        self.status["stalls"] = 0 if self.progress.read() > answered_before else self.status["stalls"] + 1
        if self.stop == signal.SIGUSR1 and self.status["stalls"] >= STALLS:
            why = f"{STALLS} attempts reached the time limit without an answer; give more time"
            self._write("failed", why)
            return FAILED
        name = signal.Signals(self.stop).name if self.stop else "a signal"
        self._write("stopped", f"stopped by {name}")
        if self.stop == signal.SIGUSR1 and (slurm_job := os.environ.get("SLURM_JOB_ID")):
            array, element = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
            if array and element:  # an array's last element has the array's id, which means all elements
                slurm_job = f"{array}_{element}"
            subprocess.run(["scontrol", "requeue", slurm_job], check=False)
        return STOPPED

    def _write(self, state: str, why: str = "") -> None:
        rows, _ = self.progress.read()
        counts = {"rows": rows, "failed_rows": self.progress.failed}
        self.job.set_status(**self.status, **counts, state=state, reason=why, heartbeat=time.time())


class Progress:
    """Counts the entries in the journals of a job; every call reads only what is new."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._offsets: dict[Path, int] = {}
        self._finished: dict[str, bool] = {}  # by key: whether the request failed
        self._begun: dict[str, int] = {}  # by key: number of answers so far

    @property
    def failed(self) -> int:
        """Finished requests with a failed answer."""
        return sum(self._finished.values())

    def read(self) -> tuple[int, int]:
        """Number of finished requests, and of answers in requests that were only begun."""
        for path in self.folder.glob("rank*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offsets[path] = self._offsets.get(path, 0) + len(line)
                    entry = header(line)  # None: damaged; the journal reports it when it is opened
                    if entry is not None and entry.state == "begun":
                        self._begun[entry.key] = len(json.loads(line)["responses"])
                    elif entry is not None:
                        self._finished[entry.key] = entry.state == "failed"
        return len(self._finished), sum(n for key, n in self._begun.items() if key not in self._finished)


if __name__ == "__main__":
    sys.exit(main())
