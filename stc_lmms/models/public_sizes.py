"""Config fields of the networks inside public checkpoints: plain data, no torch or transformers."""

from typing import Any


def _qwen2(
    width: int, layers: int, heads: int, kv_heads: int, mlp: int, vocabulary: int, **more: bool
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
        "vocab_size": vocabulary,
    } | more


QWEN2 = {
    "0.5b": _qwen2(896, 24, 14, 2, 4864, 151936, tie_word_embeddings=True),
    "1.5b": _qwen2(1536, 28, 12, 2, 8960, 151936),
    "7b": _qwen2(3584, 28, 28, 4, 18944, 152064, tie_word_embeddings=False),
}
LLAVA_ONEVISION = {size: QWEN2[size] for size in ("0.5b", "7b")}  # language models, by size
# SigLIP-so400m has 27 layers; LLaVA-OneVision and StreamForest checkpoints hold 26 of them.
SO400M: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
CLIP_L = SO400M | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "image_size": 224}
