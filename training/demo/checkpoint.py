"""Tiny checkpoints in the real layout with random weights, for tests and benchmarks.

Their answers are meaningless. The tokenizer is byte-level: one token per byte, plus the special tokens of the
real model.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% elif part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    image_size: int = 96,
    patch_size: int = 8,
    vision_width: int = 64,
    vision_layers: int = 3,
    text_width: int = 64,
    text_layers: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save a random LLaVA-OneVision with tokenizer and processor, laid out like the hub checkpoints.

    Returns:
        `folder`, ready for `from_pretrained`.
    """
    tokenizer = byte_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    vision = SiglipVisionConfig(
        hidden_size=vision_width,
        intermediate_size=4 * vision_width,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=patch_size,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=text_width,
        intermediate_size=2 * text_width,
        num_hidden_layers=text_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(config)
        _spread_positions(model)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.to(dtype).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    save_processor(folder, image_size, (image_size // patch_size) ** 2)
    return folder


def byte_tokenizer(special: Sequence[str] = SPECIAL) -> PreTrainedTokenizerFast:
    """One token per byte, plus `special`: the first is padding, the third ends a turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=special[2],
        pad_token=special[0],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _spread_positions(model: LlavaOnevisionForConditionalGeneration) -> None:
    # With the default initialisation all tokens of a random model are nearly alike, and a compression method
    # would choose by rounding noise. Larger attention weights make tokens differ.
    for name, weight in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight.data.mul_(3.0)


def save_processor(folder: Path, image_size: int, image_tokens: int) -> None:
    """Write the processor files and the chat template of a checkpoint next to its weights."""
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": image_size, "width": image_size},
        "processor_class": "LlavaOnevisionProcessor",
    }
    files = {
        "preprocessor_config.json": common
        | {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "image_grid_pinpoints": [[image_size, image_size], [image_size, 2 * image_size]],
        },
        "video_preprocessor_config.json": common | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": image_tokens,
            "vision_feature_select_strategy": "full",
            "image_token": "<image>",
            "video_token": "<video>",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
