"""A tiny random Dispider on disk, in either released layout, with the released field and weight names.

The weights are random, so its answers mean nothing; it runs the whole pipeline anywhere.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from stc_lmms import compat
from stc_lmms.models.dispider.prompt import END_OF_TURN, HAS_ANSWER, TO_DO
from training.demo.checkpoint import byte_tokenizer

_TOWER_WIDTH, _PATCH = 64, 8  # one attention head: 64 wide, as in every released CLIP
_STRONG = ("q_proj.weight", "k_proj.weight", "embed_tokens.weight")
_FOLDERS = {"v1": "stream_compressor", "v2": "perception_decision"}


def build_dispider(
    folder: Path,
    *,
    layout: Literal["v1", "v2"] = "v1",
    seed: int = 0,
    image_size: int = 64,
    slots_per_frame: int = 1,
    vision_layers: int = 3,
    width: int = 32,
    layers: int = 2,
) -> Path:
    """Save config, weights in two shards, and both tokenizers.

    Args:
        folder: to fill.
        layout: `v1` is the release of 2025, which leaves the tower's sizes to its weights; `v2` the rewrite
            of 2026.
        seed: of the weights.
        image_size: of the tower, in pixels; 8 x 8 patches are merged to 16 tokens per frame at 64.
        slots_per_frame: pooled slots.
        vision_layers: layers of the tower, of which the last is not used.
        width: of both language models.
        layers: of both language models.

    Returns:
        `folder`.
    """
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<keep_silent>", special=True)])
    compact = byte_tokenizer()
    compact.add_tokens([AddedToken(token, special=True) for token in (HAS_ANSWER, TO_DO)])
    reaction, decision = (_qwen2(len(words), width, layers) for words in (tokenizer, compact))
    config_class, vision_class = compat.vision_classes("clip")
    vision = config_class(
        hidden_size=_TOWER_WIDTH,
        intermediate_size=2 * _TOWER_WIDTH,
        num_hidden_layers=vision_layers,
        num_attention_heads=1,
        image_size=image_size,
        patch_size=_PATCH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = _weights(vision_class._from_config(vision), reaction, decision)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    for shard, part in enumerate((names[::2], names[1::2]), 1):
        path = folder / f"model-{shard:05d}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in part}, path, {"format": "pt"})

    nested = folder / _FOLDERS[layout]
    nested.mkdir(exist_ok=True)
    fields = {"resolution": (image_size // _PATCH // 2) ** 2, "pool_num": slots_per_frame}
    describe = _v1_fields if layout == "v1" else _v2_fields
    root_fields, nested_fields = describe(nested, vision.to_dict(), width)
    _write(folder / "config.json", reaction.to_dict() | root_fields)
    _write(nested / "config.json", decision.to_dict() | nested_fields | fields)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in (END_OF_TURN, "<|endoftext|>")]
    _write(folder / "generation_config.json", {"eos_token_id": ids, "do_sample": False})
    for path, words in ((folder, tokenizer), (nested, compact)):
        _save_tokenizer(path, words, slow=layout == "v1")
    return folder


def _v1_fields(nested: Path, vision: dict[str, Any], width: int) -> tuple[dict[str, Any], dict[str, Any]]:
    root = {
        "model_type": "long",
        "architectures": ["LongQwenForCausalLM"],
        "mm_compressor": f"/checkpoints/of/the/authors/{nested.name}",
        "compress_hidden_size": width,
        "clip_hidden_size": 4 * vision["hidden_size"],
        "compress_projector_type": "mlp2x_gelu",
        "clip_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
    }
    return root, {
        "model_type": "stream_ground_qwen",
        "mm_vision_tower": "openai/clip-vit-large-patch14",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "pool",
        "mm_hidden_size": vision["hidden_size"],
    }


def _v2_fields(nested: Path, vision: dict[str, Any], width: int) -> tuple[dict[str, Any], dict[str, Any]]:
    root = {
        "model_type": "dispider_reaction",
        "checkpoint_format_version": 2,
        "perception_decision": nested.name,
        "decision_hidden_size": width,
        "perception_hidden_size": 4 * vision["hidden_size"],
        "decision_projector_type": "mlp2x_gelu",
        "perception_projector_type": "mlp2x_gelu",
    }
    (nested / "vision_tower").mkdir(exist_ok=True)
    _write(nested / "vision_tower/config.json", vision)
    return root, {
        "model_type": "dispider_decision",
        "perception_vision_tower": "vision_tower",
        "perception_select_layer": -2,
        "perception_select_feature": "patch",
        "perception_projector_type": "pool",
        "perception_hidden_size": vision["hidden_size"],
    }


def _qwen2(vocabulary: int, width: int, layers: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
    )


def _weights(vision: nn.Module, reaction: Qwen2Config, decision: Qwen2Config) -> dict[str, Tensor]:
    """A state dict with the released names, scaled so that no decision depends on rounding."""
    width, out, merged = decision.hidden_size, reaction.hidden_size, 4 * vision.config.hidden_size
    compact = "model.compressor.compressor."
    parts = {
        f"{compact}model.vision_tower.vision_tower.vision_model.": compat.vision_core(vision),
        f"{compact}model.": Qwen2Model(decision),
        f"{compact}lm_head.": nn.Linear(width, decision.vocab_size, bias=False),
        f"{compact}silent_head.": nn.Linear(width, 1, bias=False),
        f"{compact}model.mm_projector.mlp.": _mlp(merged, width),
        "model.compress_projector.": _mlp(width, out),
        "model.clip_projector.": _mlp(merged, out),
        "": Qwen2ForCausalLM(reaction),
    }
    found = {}
    for prefix, module in parts.items():
        for name, weight in module.state_dict().items():
            found[prefix + name] = weight * (3.0 if name.endswith(_STRONG) else 1.0)
    return found


def _mlp(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))


def _save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast, slow: bool) -> None:
    tokenizer.save_pretrained(folder)
    if not slow:
        return
    # As `Qwen2Tokenizer` was saved then: vocabulary, merges and added tokens in separate files.
    (folder / "tokenizer.json").unlink()
    added = {str(token): i for i, token in tokenizer.added_tokens_decoder.items()}
    words = {word: i for word, i in tokenizer.get_vocab().items() if word not in added}
    _write(folder / "vocab.json", words)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    _write(folder / "added_tokens.json", added)
    special = {
        str(i): {"content": word, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
        for word, i in added.items()
    }
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "added_tokens_decoder": special,
            "additional_special_tokens": list(added),
            "eos_token": END_OF_TURN,
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "bos_token": None,
            "errors": "replace",
            "clean_up_tokenization_spaces": False,
        },
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
