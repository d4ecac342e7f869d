"""A lease has one holder; it ends when its holder dies, however it dies."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from stc_lmms.errors import StcError
from stc_lmms.sweep import lease as module
from stc_lmms.sweep.lease import Held, Lease, holder_of, is_free

HOLD = (
    "import subprocess, sys, time; from pathlib import Path; from stc_lmms.sweep.lease import Lease\n"
    "with Lease(Path(sys.argv[1]), 'it') as lease:\n"
    "    if len(sys.argv) > 2:\n"
    "        child = subprocess.Popen(['sleep', '600'], pass_fds=(lease.fd,)); print(child.pid, flush=True)\n"
    "    print('held', flush=True); time.sleep(600)\n"
)


@pytest.fixture
def hold(tmp_path):
    started = []

    def start(*more):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "lease"), *more], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        said = []
        while "held" not in said:
            said.append(process.stdout.readline().strip())
        return process, said

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_second_is_refused_and_told_who_holds_it(tmp_path, hold):
    process, _ = hold()
    with pytest.raises(Held, match=rf"results is in use by process {process.pid} on .* since 20"):
        Lease(tmp_path / "lease", "results").__enter__()
    assert not is_free(tmp_path / "lease")


def test_a_killed_holder_leaves_it_free(tmp_path, hold):
    process, _ = hold()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert holder_of(tmp_path / "lease")["pid"] == process.pid, "the file still names it"
    assert is_free(tmp_path / "lease")
    with Lease(tmp_path / "lease", "it"):
        assert holder_of(tmp_path / "lease")["pid"] == os.getpid()
    assert holder_of(tmp_path / "lease") == {} and is_free(tmp_path / "lease")


def test_a_child_that_inherited_it_keeps_it(tmp_path, hold):
    process, (child, _) = hold("child")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_free(tmp_path / "lease")
    os.kill(int(child), signal.SIGKILL)
    with Lease(tmp_path / "lease", "it", wait_s=300):
        pass


def test_waiting_ends_when_the_holder_does(tmp_path, hold):
    process, _ = hold()
    threading.Timer(0.6, process.kill).start()  # after the first look
    with Lease(tmp_path / "lease", "it", wait_s=300):
        assert process.wait() == -signal.SIGKILL


def test_a_fresh_heartbeat_from_another_machine_holds_it(tmp_path, monkeypatch):
    path = tmp_path / "lease"
    there = {"host": "elsewhere", "pid": 7, "slurm": "", "since": time.time()}
    path.write_text(json.dumps(there))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(Held, match="process 7 on elsewhere since"):  # neither is in Slurm: not the same job
        Lease(path, "it").__enter__()
    there = {"host": "elsewhere", "pid": 7, "slurm": "12", "since": time.time()}
    path.write_text(json.dumps(there))  # whose file lock is not seen here
    with pytest.raises(Held, match=r"process 7 on elsewhere \(Slurm job 12\)"):
        Lease(path, "it").__enter__()
    os.utime(path, (0, time.time() - module.STALE_S - 1))
    with Lease(path, "it"):
        pass
    path.write_text(json.dumps(there))
    monkeypatch.setenv("SLURM_JOB_ID", "12")  # the same job, requeued on another node: the first is dead
    with Lease(path, "it"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_file_locks_the_heartbeat_holds_it(tmp_path, monkeypatch, number):
    def flock(fd, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, "flock", flock)
    path = tmp_path / "lease"
    with Lease(path, "it"):
        assert not is_free(path)
        with pytest.raises(Held, match=f"in use by process {os.getpid()}"):
            Lease(path, "it").__enter__()
    assert is_free(path), "given back"
    path.write_text(json.dumps(module.me() | {"since": 1.0}))
    os.utime(path, (0, time.time() - module.STALE_S - 1))
    assert is_free(path)
    with Lease(path, "it"):
        pass


def test_a_full_disk_is_one_line_and_leaves_it_free(tmp_path, monkeypatch):
    def write(fd, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", write)
        with pytest.raises(StcError, match=r"cannot write .*lease \(No space left on device\); make room"):
            Lease(tmp_path / "lease", "it").__enter__()
    assert len(os.listdir("/proc/self/fd")) == opened
    with Lease(tmp_path / "lease", "it"):
        pass
