"""The real command: card on a CPU, JSON on the last line, and nothing imported that a GPU machine lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stc_lmms.bench import card as bench_card
from stc_lmms.bench.hardware import Machine
from stc_lmms.bench.measure import OBSERVE_STAGES, STAGES
from stc_lmms.bench.work import Work
from stc_lmms.cli.main import main
from stc_lmms.models.llava_onevision import bench

REPO = Path(__file__).resolve().parents[2]
# A GPU machine may have torch, transformers and numpy only. Whatever else is imported fails, here as there;
# asking whether it is there, as transformers does, is answered with no.
BLOCKED = """
import importlib.util, sys
MISSING = {"lmms_eval", "decord", "datasets", "av", "accelerate", "torchvision", "pandas", "PIL"}
MISSING |= {"rich", "pydantic"}
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.split(".")[0] in MISSING else find_spec(name, *a)
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
"""


def run(arguments):
    command = [sys.executable, "-m", "stc_lmms.cli", "bench", *arguments.split()]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_demo_on_a_cpu(tmp_path):
    output = tmp_path / "card.json"
    code, out, err = run(
        f"--pretrained demo --device cpu --threads 1 --frames 1,5 --repeats 2 --warmup 1 --output {output}"
    )
    assert code == 0, err
    lines = out.splitlines()
    card = json.loads(lines[-1])
    assert card == json.loads(output.read_text())
    text = "\n".join(lines[:-1])
    assert text.index("bound") < text.index("This machine, measured") < text.index("\n1 frame, ms")
    assert "not measured (no --video)" in text and "launch eager" in text

    assert card["launch"] == "eager" and "no graphs on cpu" in card["launch_reason"]
    assert card["settings"]["cache_interval"] == 4 and card["environment"]["torch"]
    assert [row["frames"] for row in card["rows"]] == [1, 5]
    for row in card["rows"]:
        for who in ("dense", "method"):
            assert row["launch"][who] == "eager" and row["sizes"][who]["frames_graphed"] == 0
            samples = row["samples_ms"][who]
            assert set(samples) == set(STAGES) and all(len(times) == 2 for times in samples.values())
            for i in range(2):
                stages = sum(samples[stage][i] for stage in OBSERVE_STAGES)
                assert 0 < stages <= samples["observe_ms"][i] + 0.01
            assert row["floor_ms"][who]["vit_ms"] > 0
        assert row["sizes"]["dense"]["kv_bytes_per_frame"] == 36 * card["kv_bytes_per_token"]
        assert row["sizes"]["method"]["kv_bytes_per_frame"] == 12 * card["kv_bytes_per_token"]
        assert row["sizes"]["method"]["tower_reference_bytes"] == card["reference_bytes"]
    one, five = (row["arithmetic_bound"]["vit_ms"] for row in card["rows"])
    assert one == 1 and 0.5 < five < 0.6
    for row in card["rows"]:
        for stage, bound in row["bound"].items():
            least = [row["floor_ms"][who][stage] for who in ("method", "dense")]
            assert bound == pytest.approx(least[0] / least[1], abs=0.02)
            assert row["measured_over_bound"][stage] == pytest.approx(row["ratio"][stage] / bound, abs=0.01)
    assert ("WARNING" in text) == bool(card["slower_than_dense"])


def test_what_the_gpu_script_runs_imports_only_torch_and_transformers():
    code = f"""{BLOCKED}
import runpy
import stc_lmms.bench.card, stc_lmms.models.llava_onevision.bench
for name in ("gpu_parity", "row_kernels"):
    runpy.run_path(f"benchmarks/{{name}}.py")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_gpu_script_needs_only_torch_and_transformers(tmp_path):
    """The whole script on a CPU, in processes that can import nothing else."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    environ = os.environ | {"PYTHON": sys.executable, "STC_CARD_DEVICE": "cpu", "STC_CARD_SMALL": "1"}
    environ["PYTHONPATH"] = os.pathsep.join((str(tmp_path), str(REPO)))
    script = ["bash", "benchmarks/gpu_card.sh", str(tmp_path)]
    done = subprocess.run(script, cwd=REPO, env=environ, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    parity = json.loads((tmp_path / "cpu_parity.json").read_text())
    assert parity["failed"] == 0 and parity["passed"] >= 10
    assert json.loads((tmp_path / "cpu_row_kernels.json").read_text())["layers"] == 2
    cards = sorted(path.stem for path in tmp_path.glob("cpu_card_*.json"))
    assert cards == ["cpu_card_7b_grouped", "cpu_card_7b_live", "cpu_card_7b_official"]
    card = json.loads((tmp_path / "cpu_card_7b_official.json").read_text())
    assert card["weights"] == "random, 0.5b" and card["execution"] == "frame_by_frame"
    assert card["prefill_frames"] == 1 and "not its processor" in card["preprocess"]
    assert card["shape"]["tokens_per_frame"] == 196 and card["shape"]["tower"]["tokens"] == 729


FAKE_PYTHON = """#!/bin/bash
case "$*" in
  *"import torch"*) exit 0;;
  *gpu_parity*) status=1;;
  *"--interval 2"*) status=3;;
  *) status=0;;
esac
echo "text of $*, unbuffered $PYTHONUNBUFFERED"
((status == 3)) || echo '{"benchmark": "fake"}'  # a killed step prints no JSON
exit $status
"""


def test_gpu_script_runs_every_step_whatever_fails(tmp_path):
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "benchmarks/gpu_card.sh", str(tmp_path / "out")],
        cwd=REPO,
        env=os.environ | {"PYTHON": str(python), "STC_CARD_DEVICE": "cuda", "STC_CARD_SMALL": ""},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    cards = ("7b_grouped", "7b_live", "7b_interval2", "7b_shared", "0.5b_grouped", "7b_official")
    steps = ["parity", "row_kernels", *(f"card_{name}" for name in cards)]
    assert [line.strip("= ") for line in lines if line.startswith("==")] == steps
    texts = [line for line in lines if line.startswith("text of")]
    assert len(texts) == len(steps) and all(text.endswith("unbuffered 1") for text in texts)
    for step, text in zip(steps, texts, strict=True):
        assert f"--output {tmp_path}/out/gpu_{step}.json" in text
    assert "{" not in done.stdout and done.returncode == 3
    assert done.stderr == "gpu_card: error: failed: parity card_7b_interval2\n"


def test_gpu_script_without_a_gpu_is_one_line(tmp_path):
    environ = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "."}
    done = subprocess.run(
        ["bash", "benchmarks/gpu_card.sh", str(tmp_path)],
        cwd=REPO,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "CUDA" in done.stderr


TINY = bench.LlavaOnevisionEntry(
    sizes={
        "7b": {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "vocab_size": 152000,
            "tie_word_embeddings": False,
        }
    },
    vision={
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 70,
        "patch_size": 14,
    },
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_card_of_a_tiny_model_with_random_weights(monkeypatch, capsys, dtype):
    monkeypatch.setattr(bench, "ENTRY", TINY)
    options = f"--device cpu --dtype {dtype} --frames 1,6 --repeats 3 --warmup 1 --budget 4 --interval 3"
    assert main(["bench", *options.split()]) == 0
    card = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert card["dtype"] == dtype and card["settings"]["token_budget"] == 4
    assert card["shape"]["tower"] == {"layers": 3, "tokens": 25, "width": 48, "mlp": 80, "patch": 14}
    one, six = card["rows"]
    assert (one["sizes"]["method"]["tower_tokens_recomputed"], one["arithmetic_bound"]["vit_ms"]) == (25, 1)
    assert six["sizes"]["method"]["tower_tokens_recomputed"] == 2 * 25 + 4 * 6
    assert six["sizes"]["method"]["kv_bytes_per_frame"] == 4 * card["kv_bytes_per_token"]
    assert six["sizes"]["method"]["tower_reference_bytes"] == card["reference_bytes"]


def test_no_method_measures_the_noise(monkeypatch, capsys):
    monkeypatch.setattr(bench, "ENTRY", TINY)
    assert main(["bench", "--device", "cpu", "--method", "none", "--frames", "2", "--repeats", "2"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert set(row["bound"].values()) == {1} and row["work"]["dense"] == row["work"]["method"]
    kv_bytes = [row["sizes"][who]["kv_bytes"] for who in ("dense", "method")]
    assert kv_bytes[0] == kv_bytes[1] > 0


def measured(monkeypatch, capsys, options, machine):
    """All that the card prints, and its only row, on a machine with these rates."""
    monkeypatch.setattr(bench, "ENTRY", TINY)
    monkeypatch.setattr(bench_card, "measure_machine", lambda *_: machine)
    assert main(["bench", "--device", "cpu", "--repeats", "1", "--warmup", "0", *options.split()]) == 0
    out = capsys.readouterr().out
    (row,) = json.loads(out.splitlines()[-1])["rows"]
    return out, row


@pytest.mark.parametrize("machine", [Machine(1e9, 1e12), Machine(1e12, 1e6)], ids=["arithmetic", "memory"])
def test_bound_is_of_the_least_times_on_this_machine(monkeypatch, capsys, machine):
    out, row = measured(monkeypatch, capsys, "--protocol live --frames 6 --budget 4", machine)
    what = "flops" if machine.flops_per_s == 1e9 else "bytes"
    assert set(row["bound"]) == set(row["work"]["dense"])
    for stage, bound in row["bound"].items():
        counts = [row["work"][who][stage][what] for who in ("method", "dense")]
        assert bound == pytest.approx(counts[0] / counts[1], abs=1e-4)
        assert row["measured_over_bound"][stage] == pytest.approx(row["ratio"][stage] / bound, rel=1e-3)
    assert row["arithmetic_bound"]["prefill_ms"] < 0.6
    # 6 calls of 4 or of 9 tokens read the same weights.
    assert (row["bound"]["prefill_ms"] > 0.9) == (what == "bytes")
    before = out[: out.index("This machine, measured")]
    assert "bound by arithmetic alone" in before and f"{row['arithmetic_bound']['vit_ms']:.3f}" in before
    assert "arithmetic bound 0." in before


def test_captured_frames_have_projector_and_pooling_in_vit(monkeypatch, capsys):
    def compare(*args, **kwargs):
        found = compare_on_a_cpu(*args, **kwargs)
        for side in (found.dense, found.method):
            side.sizes["frames_graphed"] = 6
        return found

    compare_on_a_cpu = bench_card.compare
    options, machine = "--protocol live --frames 6 --budget 4", Machine(1e9, 1e12)
    _, eager = measured(monkeypatch, capsys, options, machine)
    monkeypatch.setattr(bench_card, "compare", compare)
    out, row = measured(monkeypatch, capsys, options, machine)
    assert row["launch"] == {"dense": "graph", "method": "graph"} and row["work"] == eager["work"]
    floors = {}
    for who, work in row["work"].items():
        both = [Work(**work[stage]) for stage in ("vit_ms", "project_ms")]
        floors[who] = sum(machine.floor_ms(one) for one in both)
        assert row["floor_ms"][who]["vit_ms"] == pytest.approx(floors[who], abs=1e-3)
        assert row["floor_ms"][who]["vit_ms"] > eager["floor_ms"][who]["vit_ms"]
    assert row["bound"]["vit_ms"] == pytest.approx(floors["method"] / floors["dense"], abs=1e-4)
    assert row["bound"]["vit_ms"] > eager["bound"]["vit_ms"]
    assert "project_ms" in eager["bound"] and "project_ms" not in row["bound"]
    assert "launch: graph, with projector and pooling in vit" in out


def test_too_little_memory_to_measure_the_machine_is_one_line(monkeypatch, capsys):
    def measure_machine(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(bench, "ENTRY", TINY)
    monkeypatch.setattr(bench_card, "measure_machine", measure_machine)
    assert main(["bench", "--device", "cpu", "--frames", "1", "--budget", "4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "too little memory for measuring its rates" in line
