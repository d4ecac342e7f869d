"""Sweeps with the real `lmms-eval`: on a Slurm cluster of this machine with everything that goes wrong there,
on this machine alone, under torchrun; what is merged is what one unsharded run gives.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from stc_lmms.harness import lmms_eval
from stc_lmms.sweep.folder import Sweep
from tests.harness.test_lmms_eval import evaluate, metrics
from tests.models.qwen_checkpoint import SMALL, build_checkpoint

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]
SLURM = REPO / "scripts" / "single_node_slurm.sh"
TASKS = ["ovobench_stream_mini_backward", "streamingbench_mini"]
METHODS = {"none": "", "stc_cacher": ",update_ratio=0.5", "stc_pruner": ",token_budget=6"}
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")


def recipes(folder, checkpoints, methods=METHODS):
    """Writes a recipe of every model and method; gives their names and arguments."""
    found = {}
    for model, (path, more) in checkpoints.items():
        for method, own in methods.items():
            found[f"{model}_{method}"] = model, f"pretrained={path},method={method},dtype=float32{own}{more}"
    for name, (model, args) in found.items():
        content = {"model": f"{model}_stc", "model_args": args, "tasks": ",".join(TASKS), "device": "cpu"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return found


def write_sweep(folder, names, **keys):
    content = {"output": str(folder / "sweep"), "recipes": [f"{name}.yaml" for name in names], "tasks": TASKS}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content | keys))
    return folder / "sweep.yaml"


@pytest.fixture
def checkpoints(checkpoint, tmp_path):
    small = "".join(f",{name}={value}" for name, value in SMALL.items())
    qwen = build_checkpoint(tmp_path / "qwen", "qwen2_vl")
    return {"llava_ov": (checkpoint, ""), "qwen2_vl": (qwen, f",fps=0.5{small}")}


def command(*words, check=True, **environ):
    done = subprocess.run(
        [sys.executable, "-m", "stc_lmms.cli", *map(str, words)],
        capture_output=True,
        text=True,
        env=dict(os.environ) | {"OMP_NUM_THREADS": "1"} | environ,
        timeout=400,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def whole(found, folder, tasks=TASKS):
    """Metrics of every recipe in one unsharded run, in this process."""
    classes = {"llava_ov": lmms_eval.LlavaOvStc, "qwen2_vl": lmms_eval.Qwen2VlStc}
    results = {}
    for name, (model, args) in found.items():
        given = dict(pair.split("=") for pair in args.split(","))
        lm = classes[model](**given, device="cpu")
        results[name] = metrics(evaluate(lm, tasks, folder / name, limit=None, gen_kwargs=None))
    return results


def merged(root, name):
    (path,) = (root / "merged" / name).glob("*_results.json")
    return metrics(json.loads(path.read_text()))


def same(left, right):
    """Equal to the last bit, whatever lmms-eval adds about itself."""
    for task, values in left.items():
        for key, value in values.items():
            if key not in ("alias", "samples", " ") and "_ms" not in key:
                assert right[task][key] == value, (task, key)


def requests(root):
    """How often a video's questions are answered in the journals of all jobs, by recipe, task and video."""
    count = Counter()
    for job in Sweep(root).jobs:
        for path in (job.out / "stc_journal").glob("rank*.jsonl"):
            for line in path.read_text().split("\n"):
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # cut short by the kill
                if not entry.get("begun"):
                    count[job.recipe, entry["task"], entry["videos"][0][0]] += 1
    return count


def wait_for(what, seconds=300):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)
    return found


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


def answering(root):
    """Running jobs that have answered something."""
    running = [job for job in Sweep(root).jobs if job.status()["state"] == "running"]
    return [job for job in running if any(p.stat().st_size for p in job.out.glob("stc_journal/rank*.jsonl"))]


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
    stopped = wait_for(lambda: [job for job in answering(root) if job.index != killed.index])[0]
    os.kill(stopped.status()["pid"], signal.SIGUSR1)  # as Slurm does before a time limit
    wait_for(lambda: stopped.status()["state"] != "running")
    restarted = subprocess.run([SLURM, "restart-slurmd", slurm], capture_output=True, text=True, timeout=60)
    assert restarted.returncode == 0, restarted.stderr

    wait_for(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout, 1000)
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


def test_a_sweep_under_torchrun_is_stopped_and_resumed(checkpoint, tmp_path):
    found = recipes(tmp_path, {"llava_ov": (checkpoint, "")}, {"stc_pruner": ",token_budget=6"})
    (name,), group = found, ["ovobench_stream_mini"]
    path, root = write_sweep(tmp_path, found, tasks=group, gpus_per_job=2), tmp_path / "sweep"
    environ = dict(os.environ) | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, "-m", "stc_lmms.cli", "sweep", path], env=environ)
    wait_for(lambda: (root / "sweep.json").exists() and answering(root))
    started.terminate()
    assert started.wait(timeout=60) == 130
    (job,) = Sweep(root).jobs
    assert job.status()["state"] == "stopped" and 0 < job.status()["rows"] < job.rows

    log = command("sweep", "resume", root, CUDA_VISIBLE_DEVICES="")
    assert f"{name}/ovobench_stream_mini/000: done" in log and "merged 1 recipes" in log
    ranks = {file.name for file in (job.out / "stc_journal").iterdir()}
    assert ranks == {"rank0.jsonl", "rank1.jsonl"} and set(requests(root).values()) == {1}
    results = whole(found, tmp_path / "whole", group)[name]
    assert "ovobench_stream_mini" in results
    same(results, merged(root, name))
