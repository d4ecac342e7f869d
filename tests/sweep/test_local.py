"""Jobs on one machine: which GPUs they get, how they end, and that none outlives what started it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stc_lmms.errors import StcError
from stc_lmms.sweep import local
from stc_lmms.sweep.lease import Lease, is_free
from tests.sweep.helpers import pretend_done

# Runs the sweep in argv[1] with a job in place of its worker: it says `ready`, and `stopped` on SIGTERM.
JOB = (
    "import os, signal, time\n"  # os.write: a signal may come while print is at work
    "signal.signal(15, lambda *_: (os.write(1, b'stopped\\n'), os._exit(0)))\n"
    "os.write(1, b'ready\\n'); time.sleep(600)"
)
RUN = (
    "import subprocess, sys; from pathlib import Path; from stc_lmms.sweep import folder, lease, local\n"
    "sweep, start = folder.Sweep(Path(sys.argv[1])), subprocess.Popen\n"
    f"local.subprocess.Popen = lambda _, **how: start([sys.executable, '-c', {JOB!r}], **how)\n"
    "with lease.Lease(sweep.root / 'lease', 'x') as held:\n"
    "    sys.exit(not local.run(sweep, held, list(sweep.jobs)[:1], [None], lambda line: None))\n"
)


def heed_hangups():
    """The tests themselves may run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def running(sweep):
    """`running(*before)` is a process that runs one job, which is ready."""
    found, started = sweep(3), []

    def start(*before):
        words = [*before, sys.executable, "-c", RUN, str(found.root)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, preexec_fn=heed_hangups)
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_jobs_finish(running, number):
    process = running()
    process.send_signal(number)
    assert process.stdout.read() == b"stopped\n" and process.wait() == 1


def test_a_closed_terminal_means_nothing_under_nohup(running):
    process = running("nohup")
    (ignored,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    assert int(ignored, 16) & 1 << (signal.SIGHUP - 1)


def test_jobs_are_told_to_stop_when_what_started_them_is_killed(running):
    process = running()
    process.kill()
    assert process.stdout.read() == b"stopped\n"


def test_an_error_stops_the_jobs(sweep, monkeypatch):
    found, started, start = sweep(6, shards=3), [], subprocess.Popen

    def stand_in(command, **how):
        code = "pass" if not started else JOB
        started.append(start([sys.executable, "-c", code], **how))
        return started[-1]

    def tell(line):
        raise OSError("the terminal is gone")

    monkeypatch.setattr(local.subprocess, "Popen", stand_in)
    with Lease(found.root / "lease", "x") as lease, pytest.raises(OSError, match="terminal is gone"):
        local.run(found, lease, list(found.jobs), [None, None], tell)
    assert len(started) == 2 and all(process.returncode is not None for process in started)


def test_local_tells_how_each_job_ended_and_repeats_none(sweep):
    found = sweep(6, shards=2)
    first = found.job(0)
    for each in found.jobs:
        pretend_done(each)
    said, before = [], first.path.joinpath("status.json").read_bytes()
    with Lease(found.root / "lease", "x") as lease:
        assert local.run(found, lease, list(found.jobs), [None], said.append)
    assert sorted(said) == ["plain/ovobench_stream/000: done", "plain/ovobench_stream/001: done"]
    assert first.path.joinpath("status.json").read_bytes() == before
    assert not (first.path / "log.txt").exists() and is_free(found.root / "lease")


def test_places_are_the_gpus_in_groups(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert local.slots(2, None, needs_gpu=True) == ["0,1", "2,3"]
    assert local.slots(1, 3, needs_gpu=True) == ["0", "1", "2"]
    assert local.slots(1, 3, needs_gpu=False) == [None] * 3
    with pytest.raises(StcError, match="3 jobs at once with 2 GPUs each do not fit the 5 GPUs here"):
        local.slots(2, 3, needs_gpu=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.slots(1, None, needs_gpu=True) == [None]
