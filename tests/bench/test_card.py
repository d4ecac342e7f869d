"""The real command: card on a CPU, JSON on the last line, and nothing imported that a GPU machine lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stc_lmms.bench import models
from stc_lmms.bench.measure import OBSERVE_STAGES, STAGES
from stc_lmms.cli import main

REPO = Path(__file__).resolve().parents[2]
# A GPU machine may have torch, transformers and numpy only. Whatever else is imported fails, here as there;
# asking whether it is there, as transformers does, is answered with no.
BLOCKED = """
import importlib.util, sys
MISSING = {"lmms_eval", "decord", "datasets", "av", "accelerate", "torchvision", "pandas"}
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.split(".")[0] in MISSING else find_spec(name, *a)
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
sys.argv = ["stc-lmms", *sys.argv[1:]]
from stc_lmms.cli import main
sys.exit(main())
"""


def run(arguments, code=None):
    command = [
        sys.executable,
        *(["-c", code] if code else ["-m", "stc_lmms.cli"]),
        "bench",
        *arguments.split(),
    ]
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
                assert 0.7 * samples["observe_ms"][i] < stages <= samples["observe_ms"][i] + 0.01
            assert row["floor_ms"][who]["vit_ms"] > 0
        assert row["sizes"]["dense"]["kv_bytes_per_frame"] == 36 * card["kv_bytes_per_token"]
        assert row["sizes"]["method"]["kv_bytes_per_frame"] == 12 * card["kv_bytes_per_token"]
        assert row["sizes"]["method"]["tower_reference_bytes"] == card["reference_bytes"]
    assert card["rows"][0]["bound"]["vit_ms"] == 1 and 0.5 < card["rows"][1]["bound"]["vit_ms"] < 0.6
    assert ("WARNING" in text) == bool(card["slower_than_dense"])


@pytest.mark.slow
def test_random_weights_need_only_torch_and_transformers():
    sizes = "--size 0.5b --layers 1 --llm-layers 1 --device cpu --threads 1"
    code, out, err = run(f"{sizes} --protocol official --frames 2 --repeats 1 --warmup 0", code=BLOCKED)
    assert code == 0, err
    card = json.loads(out.splitlines()[-1])
    assert card["weights"] == "random, 0.5b" and card["execution"] == "frame_by_frame"
    assert card["prefill_frames"] == 1 and "not its processor" in card["preprocess"]
    assert card["shape"]["tokens_per_frame"] == 196 and card["shape"]["tower"]["tokens"] == 729


@pytest.mark.slow
def test_gpu_script_runs_whole_on_a_cpu(tmp_path):
    environ = os.environ | {"PYTHON": sys.executable, "STC_CARD_DEVICE": "cpu", "STC_CARD_SMALL": "1"}
    script = ["bash", "benchmarks/gpu_card.sh", str(tmp_path)]
    done = subprocess.run(
        script, cwd=REPO, env=environ | {"PYTHONPATH": "."}, capture_output=True, text=True, timeout=590
    )
    assert done.returncode == 0, done.stderr
    parity = json.loads((tmp_path / "cpu_parity.json").read_text())
    assert parity["failed"] == 0 and parity["passed"] >= 10
    cards = sorted(path.stem for path in tmp_path.glob("cpu_card_*.json"))
    assert cards == ["cpu_card_7b_grouped", "cpu_card_7b_live", "cpu_card_7b_official"]


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


TINY = models.LlavaOnevisionEntry(
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
    monkeypatch.setitem(models.MODELS, "llava_ov", TINY)
    options = f"--device cpu --dtype {dtype} --frames 1,6 --repeats 3 --warmup 1 --budget 4 --interval 3"
    assert main(["bench", *options.split()]) == 0
    card = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert card["dtype"] == dtype and card["settings"]["token_budget"] == 4
    assert card["shape"]["tower"] == {"layers": 3, "tokens": 25, "width": 48, "mlp": 80, "patch": 14}
    one, six = card["rows"]
    assert (one["sizes"]["method"]["tower_tokens_recomputed"], one["bound"]["vit_ms"]) == (25, 1)
    assert six["sizes"]["method"]["tower_tokens_recomputed"] == 2 * 25 + 4 * 6
    assert six["sizes"]["method"]["kv_bytes_per_frame"] == 4 * card["kv_bytes_per_token"]
    assert six["sizes"]["method"]["tower_reference_bytes"] == card["reference_bytes"]


def test_no_method_measures_the_noise(monkeypatch, capsys):
    monkeypatch.setitem(models.MODELS, "llava_ov", TINY)
    assert main(["bench", "--device", "cpu", "--method", "none", "--frames", "2", "--repeats", "2"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert set(row["bound"].values()) == {1} and row["work"]["dense"] == row["work"]["method"]
    kv_bytes = [row["sizes"][who]["kv_bytes"] for who in ("dense", "method")]
    assert kv_bytes[0] == kv_bytes[1] > 0
