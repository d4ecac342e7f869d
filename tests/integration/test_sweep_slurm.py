"""A sweep on a Slurm cluster of this machine, with everything that goes wrong there; what is merged is what
one unsharded run gives.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from stc_lmms.sweep.folder import Sweep
from tests.integration.sweeps import (
    answering,
    command,
    merged,
    recipes,
    requests,
    same,
    wait_for,
    whole,
    write_sweep,
)
from tests.models.qwen_checkpoint import SMALL, build_checkpoint

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]
SLURM = REPO / "scripts" / "single_node_slurm.sh"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")


@pytest.fixture
def checkpoints(checkpoint, tmp_path):
    small = "".join(f",{name}={value}" for name, value in SMALL.items())
    qwen = build_checkpoint(tmp_path / "qwen", "qwen2_vl")
    return {"llava_ov": (checkpoint, ""), "qwen2_vl": (qwen, f",fps=0.5{small}")}


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A Slurm cluster of this machine."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("a Slurm cluster of one's own needs root")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SLURM, "start", folder], capture_output=True, text=True, timeout=120)
    assert started.returncode == 0, started.stdout + started.stderr
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield folder
    subprocess.run([SLURM, "stop", folder], check=False, timeout=60)


def stopped_midway(root, other):
    """A job that was stopped in its work, as Slurm does before a time limit; None if it was done by then."""
    job = wait_for(lambda: [job for job in answering(root) if job.index != other.index])[0]
    with contextlib.suppress(ProcessLookupError):
        os.kill(job.status()["pid"], signal.SIGUSR1)
    wait_for(lambda: job.status()["state"] != "running" or job.status()["attempt"] > 1)
    return job if job.status()["state"] != "done" else None  # what was stopped is soon started again


@pytest.mark.timeout(1500)
def test_a_sweep_on_slurm_survives_everything(slurm, checkpoints, tmp_path):
    found = recipes(tmp_path, checkpoints)
    path, root = write_sweep(tmp_path, found, shards=2), tmp_path / "sweep"
    message = command("sweep", path, "--executor", "slurm", "--partition", "gpu", check=False)
    assert "unknown partition 'gpu' (valid: debug)" in message and not root.exists()

    command("sweep", path, "--executor", "print", "--partition", "debug", "--time", "1:00:00")
    (script,) = (root / "slurm").glob("*.sbatch")
    test_only = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True)
    assert test_only.returncode == 0, test_only.stderr

    on_slurm = ("--executor", "slurm")
    assert "submitted 24 jobs as Slurm array" in command(
        "sweep", path, "--executor", "slurm", "--time", "1:00:00"
    )
    assert "is in use by Slurm array" in command("sweep", path, "--executor", "slurm", check=False)

    killed = wait_for(lambda: answering(root))[0]
    os.killpg(os.getpgid(killed.status()["pid"]), signal.SIGKILL)  # the worker, and lmms-eval with it
    stopped = wait_for(lambda: stopped_midway(root, killed))
    restarted = subprocess.run([SLURM, "restart-slurmd", slurm], capture_output=True, text=True, timeout=60)
    assert restarted.returncode == 0, restarted.stderr

    wait_for(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout)
    table = command("sweep", "status", root)
    assert f"{killed.name}: " in table and "23 of 24 jobs done" in table, table
    assert stopped.status()["state"] == "done" and stopped.status()["attempt"] == 2
    assert "submitted 1 jobs" in command("sweep", "resume", root, *on_slurm)
    wait_for(lambda: killed.status()["state"] == "done")
    assert "nothing is left to start" in command("sweep", "resume", root, *on_slurm)
    command("sweep", "merge", root)

    results = whole(found, tmp_path / "whole")
    for name, values in results.items():
        same(values, merged(root, name))
    count = requests(root)
    videos = sum(len(order) for task in Sweep(root).plan["tasks"].values() for order in task.values())
    assert set(count.values()) == {1} and len(count) == len(found) * videos
    board = (root / "leaderboard" / "leaderboard.md").read_text()
    assert all(f"| {name} |" in board for name in found)
