"""StreamForest through the commands `stream` and `bench`, on the tiny checkpoint."""

import json

import pytest

from stc_lmms.cli.main import main
from stc_lmms.models.public_sizes import QWEN2
from stc_lmms.models.streamforest import bench
from tests import media
from training.demo.streamforest_checkpoint import build_streamforest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """27 x 27 patches, as released: every default of the memory fits."""
    return build_streamforest(tmp_path_factory.mktemp("forest"))


def test_the_stream_command(folder, tmp_path, capsys):
    video = media.encode_video(tmp_path / "v.mp4", media.moving_square_frames(40), 4)
    args = f"pretrained={folder},device=cpu,fps=1"
    command = ["stream", str(video), "--ask", "What?", "--every", "5", "--model", "streamforest"]
    assert main([*command, "--model_args", args, "--json", "--max-new-tokens", "3"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["efficiency"]["frames_seen"] for answer in answers] == [5, 10]
    assert main([*command, "--model_args", f"{args},grid=dynamic_fps1"]) == 2
    assert "use grid=fixed" in capsys.readouterr().err


def test_the_card_on_a_checkpoint_and_on_random_weights(folder, monkeypatch, capsys):
    options = ["--model", "streamforest", "--device", "cpu", "--frames", "5", "--repeats", "1"]
    options += ["--warmup", "0", "--new-tokens", "2"]
    assert main(["bench", *options, "--pretrained", str(folder)]) == 0
    card = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = card["rows"]
    assert card["method"] == "stc_cacher" and card["preprocess"].startswith("Pillow")
    assert set(row["bound"]) == {"vit_ms"} and 0.4 < row["bound"]["vit_ms"] < 0.7
    assert row["sizes"]["method"]["tower_tokens_recomputed"] == 2 * 729 + 3 * 182
    assert row["sizes"]["method"]["llm_tokens_mean"] == (729 + 4 * 128) / 5

    text = QWEN2["0.5b"] | {"num_hidden_layers": 2, "vocab_size": 256, "tie_word_embeddings": False}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    tiny = bench.StreamForestEntry({"7b": text}, vision | {"image_size": 54, "patch_size": 2})
    monkeypatch.setattr(bench, "ENTRY", tiny)
    assert main(["bench", *options, "--layers", "1", "--llm-layers", "1"]) == 0
    card = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert card["weights"] == "random, 7b" and card["shape"]["tower"]["layers"] == 1
    assert main(["bench", *options, "--method", "stc"]) == 2
    assert "method=stc drops tokens" in capsys.readouterr().err
    assert main(["bench", *options, "--size", "0.5b"]) == 2
    assert "unknown size '0.5b'" in capsys.readouterr().err


def test_the_checkpoint_has_the_released_layout(folder):
    fields = json.loads((folder / "config.json").read_text())
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tower = "model.vision_tower.vision_tower.vision_model."
    assert fields["model_type"] == "llava_qwen" and fields["mm_projector_type"] == "tome729_fstw_pemf"
    assert sum(name.startswith(f"{tower}encoder.layers.") for name in names) == 16 * 3
    assert {f"{tower}embeddings.position_embedding.weight", f"{tower}post_layernorm.bias"} <= set(names)
    assert {"model.mm_projector.mlp.0.weight", "model.mm_projector.mlp.2.bias", "lm_head.weight"} <= set(
        names
    )
    assert len(set(names.values())) == 2
