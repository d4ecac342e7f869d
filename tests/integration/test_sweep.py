"""A sweep on this machine alone, under torchrun; what is merged is what one unsharded run gives."""

import os
import subprocess
import sys

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

pytestmark = pytest.mark.slow


def test_a_sweep_under_torchrun_is_stopped_and_resumed(checkpoint, tmp_path):
    found = recipes(tmp_path, {"llava_ov": (checkpoint, "")}, {"stc_pruner": ",token_budget=6"})
    (name,), group = found, ["ovobench_stream_mini"]
    path, root = write_sweep(tmp_path, found, tasks=group, gpus_per_job=2), tmp_path / "sweep"
    environ = dict(os.environ) | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, "-m", "stc_lmms.cli", "sweep", path], env=environ)
    wait_for(lambda: (root / "sweep.json").exists() and answering(root))
    started.terminate()
    assert started.wait() == 130
    (job,) = Sweep(root).jobs
    assert job.status()["state"] == "stopped" and 0 < job.status()["rows"] < job.rows

    log = command("sweep", "resume", root, CUDA_VISIBLE_DEVICES="")
    assert f"{name}/ovobench_stream_mini/000: done" in log and "merged 1 recipes" in log
    ranks = {file.name for file in (job.out / "stc_journal").iterdir()}
    assert ranks == {"rank0.jsonl", "rank1.jsonl"} and set(requests(root).values()) == {1}
    results = whole(found, tmp_path / "whole", group)[name]
    assert "ovobench_stream_mini" in results
    same(results, merged(root, name))
