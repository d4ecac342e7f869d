"""The examples of docs/extending.md work as printed, in a copy of the package that has them added."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
LISTING = re.compile(r"^`([^`]+)`(?:, one more entry of `(\w+)`)?:\n\n```\w*\n(.*?)^```$", re.M | re.S)


def listings(section):
    """(path, name of the collection to add to or "", code) of every listing in a section."""
    text = (REPO / "docs" / "extending.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return LISTING.findall(body)


def extended(root, *sections):
    """A copy of the package and its tasks below `root`, with the listings of the sections added."""
    shutil.copytree(REPO / "stc_lmms", root / "stc_lmms", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "tasks", root / "tasks", ignore=shutil.ignore_patterns("mini_data"))
    for path, collection, code in (listing for section in sections for listing in listings(section)):
        file = root / path
        if collection:
            text = file.read_text(encoding="utf-8")
            changed = re.sub(
                rf"^({collection}\b.*[\[({{])\n", lambda m, code=code: m[0] + code, text, flags=re.M
            )
            assert changed != text, f"{path} has no {collection}"
            file.write_text(changed, encoding="utf-8")
        else:
            new_package = not file.parent.is_dir()
            file.parent.mkdir(parents=True, exist_ok=True)
            if new_package and path.endswith(".py"):
                (file.parent / "__init__.py").touch()
            file.write_text(code, encoding="utf-8")
    return root


def run(root, *words, **environ):
    """Standard output of `stc-lmms` with the package below `root`."""
    done = subprocess.run(
        [sys.executable, "-m", "stc_lmms.cli", *map(str, words)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)} | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def llava_checkpoint(tmp_path_factory):
    """Folder of a tiny random LLaVA-1.5."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from training.demo.checkpoint import byte_tokenizer

    tokenizer, folder = byte_tokenizer(), tmp_path_factory.mktemp("llava")
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=8),
        text_config=LlamaConfig(**small, vocab_size=len(tokenizer), max_position_embeddings=4096),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    LlavaProcessor(CLIPImageProcessor(**sides), tokenizer, patch_size=8).save_pretrained(folder)
    return folder


def watch(root, model_args):
    """Efficiency of one answer of the demo model."""
    video = next((REPO / "tasks" / "mini_data" / "videos").glob("*.mp4"))
    args = f"pretrained=demo,device=cpu,{model_args}"
    words = ("stream", video, "--model_args", args, "--ask", "What moves?", "--json", "--max-new-tokens", 3)
    return json.loads(run(root, *words))["efficiency"]


def test_a_method_and_a_memory(tmp_path):
    root = extended(tmp_path, "A method", "A memory")
    efficiency = watch(root, "method=loudest,token_budget=7,past=0.25")
    assert efficiency["frames_seen"] > 8 and efficiency["llm_tokens_mean"] == 7
    few, all_frames = (watch(root, f"method=loudest,memory=sparse,keep_every={n}") for n in (4, 1))
    assert 0 < few["kv_bytes"] < all_frames["kv_bytes"] / 3
    listed = json.loads(run(root, "methods", "--json"))
    assert "loudest" in [method["name"] for method in listed["methods"]]
    assert {"name": "sparse", "summary": "Every n-th frame.", "defaults": {"keep_every": 4}} in listed[
        "memories"
    ]


def test_a_model(tmp_path, llava_checkpoint):
    root = extended(tmp_path, "A model")
    video = next((REPO / "tasks" / "mini_data" / "videos").glob("*.mp4"))
    args = f"pretrained={llava_checkpoint},device=cpu,cache_interval=2,memory=recent,recent_frames=3"
    words = ("stream", video, "--model", "llava", "--model_args", args, "--ask", "What moves?", "--json")
    efficiency = json.loads(run(root, *words, "--max-new-tokens", 3))["efficiency"]
    frames = efficiency["frames_seen"]
    assert frames > 8 and efficiency["llm_tokens_mean"] == 16 and efficiency["new_tokens"] <= 3
    assert efficiency["tower_tokens"] == 17 * frames > efficiency["tower_tokens_recomputed"]
    listed = json.loads(run(root, "methods", "--model", "llava", "--json"))
    assert listed["models"][0]["name"] == "llava"


def test_a_benchmark(tmp_path):
    root, data = extended(tmp_path, "A benchmark"), tmp_path / "data"
    videos = sorted((REPO / "tasks" / "mini_data" / "videos").glob("*.mp4"))[:2]
    (data / "videos").mkdir(parents=True)
    entries = []
    for video, time_s, topic in (
        (videos[0], 8, "objects"),
        (videos[0], 4, "actions"),
        (videos[1], 6, "objects"),
    ):
        shutil.copy(video, data / "videos")
        asked = {"question": "What is on the sign?", "choices": ["a three", "a five"], "answer": "a five"}
        entries.append({"video": video.name, "time_s": time_s, "topic": topic} | asked)
    (data / "questions.json").write_text(json.dumps(entries))
    here = {"STC_KITCHEN_ROOT": str(data)}
    assert json.loads(run(root, "data", "verify", "kitchen", "--json", **here))["good"] == 2
    words = ("compare", "--methods", "none", "--tasks", "kitchen_stream", "--output", root / "out")
    table = run(root, *words, "--model_args", "pretrained=demo,device=cpu", **here)
    assert re.search(r"^none +- +3 +0 ", table, re.M)
