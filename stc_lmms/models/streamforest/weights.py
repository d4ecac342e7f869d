"""The networks of a StreamForest checkpoint, by the names of the release, in stock modules."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel, Qwen2ForCausalLM, SiglipVisionModel

from stc_lmms.models.checkpoint_io import (
    Entry,
    Network,
    check_weights,
    load_all,
    mlp,
    random_all,
    sort_weights,
)
from stc_lmms.models.streamforest.config import StreamForestSpec

logger = logging.getLogger(__name__)

VISION, PROJECTOR = "model.vision_tower.vision_tower.vision_model.", "model.mm_projector.mlp."
_DECODER = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
_DECODED = ((prefix, "decoder", prefix) for prefix in _DECODER)
_PREFIXES = ((VISION, "vision", ""), (PROJECTOR, "projector", ""), *_DECODED)
_UNREAD = ("post_layernorm.weight", "post_layernorm.bias")  # the features are those of the layer before


@dataclass(frozen=True)
class Networks:
    """The networks of one StreamForest, all of one dtype on one device."""

    vision: PreTrainedModel
    projector: nn.Sequential
    decoder: Qwen2ForCausalLM


def load_networks(
    spec: StreamForestSpec,
    found: Mapping[str, Entry],
    dtype: str | torch.dtype,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
) -> Networks:
    """The networks with the tensors of a checkpoint (by released name); dtype `auto` is that of the files.

    Raises:
        CheckpointError: see `check_tensors`; raised before any is read.
    """
    parts = check_tensors(spec, found)
    if dtype == "auto":
        dtype = next(iter(parts["decoder"].values())).read().dtype
    return Networks(**load_all(_networks(spec, attention), parts, dtype, device))


def random_networks(
    spec: StreamForestSpec, dtype: torch.dtype, device: torch.device, attention: str
) -> Networks:
    """Random weights, see `random_all`."""
    return Networks(**random_all(_networks(spec, attention), dtype, device))


def check_tensors(spec: StreamForestSpec, found: Mapping[str, Entry]) -> dict[str, dict[str, Entry]]:
    """Tensors by network, once all are there and of the right shape; reads none.

    Raises:
        CheckpointError: names those that are missing, of another shape, or unexpected in a network.
    """
    parts, strangers = sort_weights(found, _PREFIXES)
    hint = f"; mm_vision_tower={spec.tower_name!r} is not read instead: the tower was trained, too"
    hint = "" if parts["vision"] else hint
    check_weights(repr(str(spec.folder)), _networks(spec), parts, _UNREAD, hint=hint)
    if strangers:
        count, example = len(strangers), min(strangers)
        logger.warning("%s has %d weights that no StreamForest has: %s, ...", spec.folder, count, example)
    return parts


def _networks(spec: StreamForestSpec, attention: str = "sdpa") -> dict[str, Network]:
    return {
        "vision": Network(SiglipVisionModel, spec.vision),
        "projector": Network(lambda: mlp(spec.vision.hidden_size, spec.text.hidden_size)),
        "decoder": Network(Qwen2ForCausalLM, spec.text, attention),
    }
