"""The trained model, a small LLaVA-OneVision of stock parts, and helpers shared by all stages."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from training.demo.world import CELLS, SIDE

WIDTH = 192
PATCH = 8


def build(
    seed: int, vocabulary: int, ids: dict[str, int] | None = None
) -> LlavaOnevisionForConditionalGeneration:
    """The untrained model.

    Args:
        seed: seed of the initial weights.
        vocabulary: number of tokens.
        ids: ids of the special tokens.
    """
    ids = ids or {}
    end = ids.get("<|im_end|>")
    vision = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=448,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=ids.get("<|endoftext|>"),
        tie_word_embeddings=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids.get("<image>", 0),
        video_token_index=ids.get("<video>", 0),
        tie_word_embeddings=False,
        image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE]],
    )
    torch.manual_seed(seed)
    return LlavaOnevisionForConditionalGeneration(config)


def see(tower: nn.Module, projector: nn.Module, pictures: np.ndarray) -> Tensor:
    """Pictures uint8 [B,96,96,3] to pooled tokens [B,36,192], as the stock model computes them."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    features = tower(pixels, output_hidden_states=True).hidden_states[-1]
    tokens = projector(features).unflatten(1, (2 * CELLS, 2 * CELLS)).permute(0, 3, 1, 2)
    return nn.functional.avg_pool2d(tokens, 2).flatten(2).mT  # bilinear to exactly half is the mean of 2 x 2


def schedule(step: int, steps: int, warmup: int, flat: float = 0.5) -> float:
    """Learning rate factor: linear warm-up, constant, then down to 0 after the share `flat` of all steps."""
    down = (steps - step) / (steps * (1 - flat))
    return max(0.0, min(1.0, (step + 1) / warmup, down))


def log(path: Path, line: dict[str, object]) -> None:
    """Append one line of JSON to a file, and print it."""
    text = json.dumps(line)
    print(text, flush=True)
    with path.open("a") as file:
        file.write(text + "\n")


def save(path: Path, state: dict[str, object]) -> None:
    """Write a state atomically: after a kill either the old or the new one is there."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
