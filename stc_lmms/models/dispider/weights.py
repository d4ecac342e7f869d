"""The networks of a Dispider checkpoint, by the names of the release, in stock modules."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Qwen2ForCausalLM, Qwen2Model
from transformers.configuration_utils import PretrainedConfig

from stc_lmms import compat
from stc_lmms.errors import CheckpointError
from stc_lmms.models.checkpoint_io import (
    Entry,
    Network,
    check_weights,
    load_all,
    mlp,
    random_all,
    sort_weights,
)
from stc_lmms.models.dispider.config import DispiderSpec

_COMPACT = "model.compressor.compressor."
_PREFIXES = (  # see `sort_weights`
    (f"{_COMPACT}model.vision_tower.vision_tower.vision_model.", "vision", ""),
    (f"{_COMPACT}model.vision_tower.vision_tower.", "vision", ""),
    (f"{_COMPACT}model.mm_projector.mlp.", "pool", ""),
    (f"{_COMPACT}model.", "decision", ""),
    (f"{_COMPACT}silent_head.", "silent_head", ""),
    (f"{_COMPACT}lm_head.", "", ""),  # the compact model never generates
    ("model.compress_projector.", "compress", ""),
    ("model.clip_projector.", "clip", ""),
    ("model.", "reaction", "model."),
    ("lm_head.", "reaction", "lm_head."),
)
_HEAD_WIDTH = 64  # of every CLIP that was released


@dataclass(frozen=True)
class Networks:
    """The networks of one Dispider, all of one dtype on one device."""

    vision: PreTrainedModel
    decision: Qwen2Model  # compact decoder of width D, without a language model head
    reaction: Qwen2ForCausalLM  # the model that answers, of width H
    silent_head: nn.Linear  # D to 1; above 0 means: answer now
    pool: nn.Sequential  # merged tokens (4 times the tower's width) to D
    clip: nn.Sequential  # merged tokens to H
    compress: nn.Sequential  # D to H


def load_networks(
    spec: DispiderSpec,
    found: Mapping[str, Entry],
    dtype: str | torch.dtype,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
) -> Networks:
    """The networks with the tensors of a checkpoint (by released name); dtype `auto` is that of the files.

    Raises:
        CheckpointError: weights are missing, unexpected or of another shape; raised before any is read.
    """
    parts, strangers = sort_weights(found, _PREFIXES)
    vision_config = _vision_config(spec, spec.vision or _fields_by_shape(spec, parts["vision"]))
    for config, embedding in (
        (spec.reaction, parts["reaction"].get("model.embed_tokens.weight")),
        (spec.decision, parts["decision"].get("embed_tokens.weight")),
    ):
        if embedding is not None:  # rows may have been added for new tokens without a change of the config
            config.vocab_size = embedding.shape[0]
    networks = _networks(spec, vision_config, attention)
    check_weights(repr(str(spec.folder)), networks, parts, strangers=strangers)
    if dtype == "auto":
        dtype = next(iter(found.values())).read().dtype
    return Networks(**load_all(networks, parts, dtype, device))


def random_networks(spec: DispiderSpec, dtype: torch.dtype, device: torch.device, attention: str) -> Networks:
    """Random weights, see `random_all`."""
    networks = _networks(spec, _vision_config(spec, spec.vision or {}), attention)
    return Networks(**random_all(networks, dtype, device))


def _networks(spec: DispiderSpec, vision_config: PretrainedConfig, attention: str) -> dict[str, Network]:
    width, out, merged = spec.decision.hidden_size, spec.reaction.hidden_size, 4 * vision_config.hidden_size
    return {
        "vision": Network(compat.vision_classes("clip")[1], vision_config),
        "decision": Network(Qwen2Model, spec.decision, attention),
        "reaction": Network(Qwen2ForCausalLM, spec.reaction, attention),
        "silent_head": Network(lambda: nn.Linear(width, 1, bias=False)),
        "pool": Network(lambda: mlp(merged, width)),
        "clip": Network(lambda: mlp(merged, out)),
        "compress": Network(lambda: mlp(width, out)),
    }


def _vision_config(spec: DispiderSpec, fields: Mapping[str, Any]) -> PretrainedConfig:
    config_class, _ = compat.vision_classes("clip")
    known = config_class().to_dict().keys() - {"model_type"}
    config = config_class(**{name: value for name, value in fields.items() if name in known})
    depth = config.num_hidden_layers
    if not -depth - 1 <= spec.select_layer <= depth:
        raise CheckpointError(
            f"{str(spec.folder)!r}: mm_vision_select_layer={spec.select_layer} is out of range for a tower "
            f"of {depth} layers; the released value is -2"
        )
    patches = (config.image_size // config.patch_size) ** 2
    if patches != 4 * spec.tokens_per_frame:
        raise CheckpointError(
            f"{str(spec.folder)!r}: a tower of {patches} patches does not give resolution="
            f"{spec.tokens_per_frame} tokens of 2x2 patches"
        )
    return config


def _fields_by_shape(spec: DispiderSpec, entries: Mapping[str, Entry]) -> dict[str, int]:
    try:
        width, _, patch, _ = entries["embeddings.patch_embedding.weight"].shape
        positions = entries["embeddings.position_embedding.weight"].shape[0]
        inner = entries["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"{str(spec.folder)!r}: vision: {error.args[0]} is missing") from error
    layers = {int(name.split(".")[2]) for name in entries if name.startswith("encoder.layers.")}
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "image_size": patch * round((positions - 1) ** 0.5),
        "patch_size": patch,
    }
