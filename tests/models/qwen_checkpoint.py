"""Tiny random Qwen-VL checkpoints in the real layout: 8 pixels a token, 12 tokens a slice of `clip`."""

import json

import torch

from parity import networks
from training.demo.checkpoint import byte_tokenizer

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
CLASSES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
# Arguments that go with the size of these models.
SMALL = {"slice_tokens": 12, "min_slice_tokens": 6}
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_VISION = {
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_heads": 2,
    "in_channels": 3,
}
VISION = {
    "qwen2_vl": _VISION | {"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
    "qwen2_5_vl": _VISION
    | {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 48,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    },
    "qwen3_vl": _VISION
    | {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 48,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    },
}


def build_checkpoint(folder, family, seed=0, layers=3):
    """Save a random model with tokenizer and processor; returns the folder."""
    tokenizer = byte_tokenizer(SPECIAL)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "eos_token_id": ids["<|im_end|>"],
    }
    options = {
        f"{name}_token_id": ids[f"<|{token}|>"]
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    rope = {"rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = networks.tiny_qwen_vl(
            family, dict(VISION[family]), text, rope, options | {"tie_word_embeddings": False}
        )
        for name, weight in model.named_parameters():  # a default random model sees no difference in tokens
            if name.endswith(("q_proj.weight", "k_proj.weight", "qkv.weight")):
                weight.data.mul_(6.0)
            elif name.startswith("model.visual") and weight.dim() > 1:
                weight.data.mul_(4.0)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    processor = CLASSES[family] + "Processor"
    video = "Qwen3VL" if family == "qwen3_vl" else "Qwen2VL"
    common = {
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.4, 0.6],
        "image_std": [0.3, 0.2, 0.3],
        "size": {"shortest_edge": 256, "longest_edge": 4096},
        "processor_class": processor,
    }
    files = {
        "preprocessor_config.json": common | {"image_processor_type": "Qwen2VLImageProcessor"},
        "video_preprocessor_config.json": common | {"video_processor_type": f"{video}VideoProcessor"},
        "processor_config.json": {"processor_class": processor},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder
