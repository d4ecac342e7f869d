"""Sweeps with the real `lmms-eval`: their recipes, and what one unsharded run gives."""

import json
import os
import subprocess
import sys
import time
from collections import Counter

import yaml

from stc_lmms.eval import lmms_eval
from stc_lmms.sweep.folder import Sweep
from tests.eval.test_lmms_eval import evaluate, metrics

TASKS = ["ovobench_stream_mini_backward", "streamingbench_mini"]
METHODS = {"none": "", "stc_cacher": ",update_ratio=0.5", "stc_pruner": ",token_budget=6"}


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
                if entry["state"] != "begun":
                    count[job.recipe, entry["task"], entry["videos"][0][0]] += 1
    return count


def wait_for(what):
    """What it gives, once that is true; pytest's own timeout ends a test that waits in vain."""
    while not (found := what()):
        time.sleep(0.2)
    return found


def answering(root):
    """Running jobs that have answered something."""
    running = [job for job in Sweep(root).jobs if job.status()["state"] == "running"]
    return [job for job in running if any(p.stat().st_size for p in job.out.glob("stc_journal/rank*.jsonl"))]
