"""A tiny random StreamForest on disk, with the fields and weight names of the released checkpoint.

The weights are random, so its answers mean nothing; it runs the whole pipeline anywhere.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2ForCausalLM, SiglipVisionModel

from stc_lmms import compat
from stc_lmms.models.checkpoint_io import mlp
from stc_lmms.models.streamforest.config import StreamForestSpec
from stc_lmms.models.streamforest.weights import PROJECTOR, VISION
from training.demo.checkpoint import byte_tokenizer

_SHARDS = 2


def build_streamforest(
    folder: Path,
    *,
    seed: int = 0,
    image_size: int = 54,
    patch_size: int = 2,
    vision_width: int = 32,
    vision_layers: int = 3,
    text_width: int = 64,
    text_layers: int = 2,
) -> Path:
    """Save config, weights in two shards with their index, and the tokenizer.

    Args:
        folder: where to write.
        seed: seed of the weights.
        image_size: image size of the tower in pixels; the default gives the released 27x27 patches.
        patch_size: patch size of the tower in pixels.
        vision_width: width of the tower, a multiple of 16.
        vision_layers: layers of the tower; all are used, as in the release.
        text_width: width of the decoder.
        text_layers: layers of the decoder.

    Returns:
        `folder`.
    """
    tokenizer = byte_tokenizer()
    fields = {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "vocab_size": len(tokenizer),
        "hidden_size": text_width,
        "intermediate_size": 2 * text_width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "mm_hidden_size": vision_width,
        "mm_vision_tower": "/checkpoints/of/the/authors/siglip-so400m-patch14-384",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "tome729_fstw_pemf",
        "mm_patch_merge_type": "flat",
        "vision_encode_type": "image_video_memory_batch",
        "tokenizer_model_max_length": 32768,
        "time_msg_type": "short_online_v2",
        "vision_config": {
            "hidden_size": vision_width,
            "intermediate_size": 2 * vision_width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": image_size,
            "patch_size": patch_size,
        },
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = _weights(StreamForestSpec.of(folder, fields))
    folder.mkdir(parents=True, exist_ok=True)
    names, where = sorted(weights), {}
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors"
        part = {name: weights[name].contiguous() for name in names[shard::_SHARDS]}
        save_file(part, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    total = sum(x.nbytes for x in weights.values())
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    _write(folder / "config.json", fields)
    tokenizer.save_pretrained(folder)
    return folder


def _weights(spec: StreamForestSpec) -> dict[str, Tensor]:
    """A state dict with the released names, scaled so that no decision depends on rounding."""
    tower = SiglipVisionModel._from_config(spec.vision)
    parts = {
        VISION: compat.vision_core(tower),
        PROJECTOR: mlp(spec.vision.hidden_size, spec.text.hidden_size),
        "": Qwen2ForCausalLM._from_config(spec.text),
    }
    weights = {f"{prefix}{k}": v for prefix, part in parts.items() for k, v in part.state_dict().items()}
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "position_embedding.weight")):
            weight.mul_(3.0)
    return weights


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
