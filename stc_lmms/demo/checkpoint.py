"""`pretrained=demo`: a tiny LLaVA-OneVision checkpoint in the real layout, made on first use.

The weights are random, so its answers mean nothing; it exists to run the whole pipeline anywhere. The
tokenizer is byte-level: any text is one token per byte, plus the special tokens of the real model.
"""

import hashlib
import json
import os
import shutil
import tempfile
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

# The token geometry of the real model (27 x 27 patches, 196 tokens per frame), so that every default fits,
# and a tower wide enough for its arithmetic, not its overhead, to decide how long it takes.
DEMO_SIZES = {
    "image_size": 216,
    "patch_size": 8,
    "vision_width": 192,
    "vision_layers": 4,
    "text_width": 128,
    "text_layers": 2,
}
NOTICE = "pretrained=demo has random weights: its answers and scores mean nothing"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% elif part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def demo_folder() -> Path:
    """Folder of the demo checkpoint in the user's cache; makes it if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stc-lmms"
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    folder = cache / f"demo-random-{recipe}"
    if not (folder / "config.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Made aside and renamed: two ranks may come here at once, and neither may see half a checkpoint.
        part = Path(tempfile.mkdtemp(dir=cache))
        build_checkpoint(part, **DEMO_SIZES)
        try:
            part.rename(folder)
        except OSError:
            shutil.rmtree(part)
    return folder


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
    """Save a random LLaVA-OneVision with tokenizer and processor, as the hub checkpoints are saved.

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


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _spread_positions(model: LlavaOnevisionForConditionalGeneration) -> None:
    # Default initialisation makes every token of a random model nearly alike; a compression method
    # would then choose by rounding noise. Unit-scale positions and attention make tokens differ.
    for name, weight in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight.data.mul_(3.0)


def save_processor(folder: Path, image_size: int, image_tokens: int) -> None:
    """Write the processor files and the chat template of a checkpoint beside its weights."""
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
