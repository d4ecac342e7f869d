"""Small models with the weights of recorded cases, which use the names of one transformers version."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

from stc_lmms import compat, compat_qwen_vl
from stc_lmms.errors import CheckpointError
from stc_lmms.models.checkpoint_io import Entry


def entries_of(weights: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Tensors in memory as those of a checkpoint."""
    return {name: Entry(tuple(x.shape), lambda x=x: x) for name, x in weights.items()}


def tiny_vision_model(
    kind: str, config: dict[str, object], weights: dict[str, Tensor], dtype: torch.dtype
) -> PreTrainedModel:
    """A vision model from a config and a complete state dict in 4.x naming, on SDPA.

    Raises:
        CheckpointError: unknown kind, not in this version of transformers, or not the model's weights.
    """
    config_class, model_class = compat.vision_classes(kind)
    model = model_class._from_config(config_class(**config), attn_implementation="sdpa").eval().to(dtype)
    if compat.vision_core(model) is model:
        weights = {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the config: {compat.first_line(error)}") from error
    return model


def tiny_llava_onevision(
    vision: dict[str, object],
    text: dict[str, object],
    options: dict[str, object],
    weights: dict[str, Tensor],
    dtype: torch.dtype,
) -> PreTrainedModel:
    """A LLaVA-OneVision with a Qwen2 decoder from configs and a complete state dict in 4.46 naming.

    Raises:
        CheckpointError: the weights are not the model's.
    """
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**vision), text_config=Qwen2Config(**text), **options
    )
    model = LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    tower = model.model.vision_tower
    inner = "vision_tower." + ("" if compat.vision_core(tower) is tower else "vision_model.")
    renamed = {
        _replace_prefix(
            name,
            {
                "language_model.lm_head.": "lm_head.",
                "language_model.model.": "model.language_model.",
                "vision_tower.vision_model.": f"model.{inner}",
                "": "model.",
            },
        ): tensor
        for name, tensor in weights.items()
    }
    try:
        model.load_state_dict(renamed)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the config: {compat.first_line(error)}") from error
    return model.eval().to(dtype)


def _replace_prefix(name: str, prefixes: dict[str, str]) -> str:
    old = next(prefix for prefix in prefixes if name.startswith(prefix))
    return prefixes[old] + name.removeprefix(old)


def tiny_qwen_vl(
    kind: str,
    vision: dict[str, Any],
    text: dict[str, Any],
    rope: dict[str, Any],
    options: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
) -> PreTrainedModel:
    """A small model in float32 from configs, random or with a complete state dict in 5.x naming.

    Args:
        kind: qwen2_vl, qwen2_5_vl or qwen3_vl.
        vision: vision config.
        text: text config without RoPE.
        rope: `rope_theta` and `mrope_section`.
        options: other fields of the config.
        weights: parameters by name; None leaves them random.

    Raises:
        CheckpointError: not in this version of transformers, or the weights are not the model's.
    """
    cls = compat_qwen_vl.model_class(kind)
    theta, sections = rope["rope_theta"], list(rope["mrope_section"])
    own: dict[str, Any] = {
        "rope_scaling": {"rope_type": "default", "type": "mrope", "mrope_section": sections},
        "rope_theta": theta,
    }
    if int(transformers.__version__.partition(".")[0]) >= 5:
        own = {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": sections}}
    own |= {"bos_token_id": None, "eos_token_id": None}
    config = cls.config_class(vision_config=vision, text_config=own | text, **options)
    model = cls._from_config(config, attn_implementation="sdpa")
    if weights is not None:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"the weights do not fit the config: {compat.first_line(error)}") from error
    return model.eval()
