"""The weights of a Dispider checkpoint, by the names of the release, in stock modules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2ForCausalLM, Qwen2Model
from transformers.configuration_utils import PretrainedConfig

from stc_lmms import compat
from stc_lmms.errors import CheckpointError
from stc_lmms.models.checkpoint_io import (
    BUFFERS,
    Entry,
    entries,
    entries_of,
    lacking,
    on_meta,
    small_network,
    stock_network,
    unexpected,
)
from stc_lmms.models.dispider.config import DispiderSpec

_COMPACT = "model.compressor.compressor."
_PREFIXES = (  # of the release: which network, and what replaces the prefix; the first that fits counts
    (f"{_COMPACT}model.vision_tower.vision_tower.vision_model.", "vision", ""),
    (f"{_COMPACT}model.vision_tower.vision_tower.", "vision", ""),
    (f"{_COMPACT}model.mm_projector.mlp.", "pool", ""),
    (f"{_COMPACT}model.", "decision", ""),
    (f"{_COMPACT}silent_head.", "silent_head", ""),
    ("model.compress_projector.", "compress", ""),
    ("model.clip_projector.", "clip", ""),
    ("model.", "reaction", "model."),
    ("lm_head.", "reaction", "lm_head."),
)
_UNUSED = (f"{_COMPACT}lm_head.",)  # the compact model is never asked for words
_HEAD_WIDTH = 64  # of every CLIP that was released


@dataclass(frozen=True)
class Networks:
    """The networks of one Dispider, all of one dtype on one device.

    Attributes:
        vision: CLIP tower.
        decision: compact decoder of width D, without a head for words.
        silent_head: D to 1; above 0 means: answer now.
        pool: merged tokens (4 times the tower's width) to D.
        clip: merged tokens to the width H of the model that answers.
        compress: D to H.
        reaction: the model that answers.
    """

    vision: PreTrainedModel
    decision: Qwen2Model
    silent_head: nn.Linear
    pool: nn.Sequential
    clip: nn.Sequential
    compress: nn.Sequential
    reaction: Qwen2ForCausalLM


def load_networks(spec: DispiderSpec, dtype: str | torch.dtype, attn_implementation: str) -> Networks:
    """Read the safetensors files of the root folder; nothing is read before all names and shapes fit.

    Args:
        spec: of the checkpoint.
        dtype: of the weights; `auto` is the one of the files.
        attn_implementation: of both language models; the tower runs SDPA.

    Raises:
        CheckpointError: there are none, or weights are missing, unexpected or of another shape.
    """
    found = entries(spec.folder)
    if dtype == "auto":
        dtype = next(iter(found.values())).read().dtype
    return _build(spec, found, dtype, attn_implementation)


def networks_from_tensors(
    spec: DispiderSpec, weights: Mapping[str, Tensor], dtype: torch.dtype, attn_implementation: str = "sdpa"
) -> Networks:
    """The same from a complete state dict with the names of the release.

    Raises:
        CheckpointError: weights are missing, unexpected or of another shape.
    """
    return _build(spec, entries_of(weights), dtype, attn_implementation)


def random_networks(
    spec: DispiderSpec, dtype: torch.dtype, device: torch.device, attn_implementation: str
) -> Networks:
    """Random weights, made in their dtype on their device: no copy passes through the CPU."""
    vision_config = _vision_config(spec, spec.vision or {})
    with torch.device(device):
        built = {name: make().to(dtype) for name, make in _small(spec, vision_config).items()}
        for name, (cls, config, attention) in _stock(spec, vision_config, attn_implementation).items():
            built[name] = cls._from_config(config, dtype=dtype, attn_implementation=attention)
    return Networks(**{name: module.eval() for name, module in built.items()})


def _build(spec: DispiderSpec, found: Mapping[str, Entry], dtype: torch.dtype, attention: str) -> Networks:
    parts: dict[str, dict[str, Entry]] = {part: {} for _, part, _ in _PREFIXES}
    problems: list[str] = []
    for name, entry in found.items():
        if name.startswith(_UNUSED) or name.endswith(BUFFERS):
            continue
        for prefix, part, instead in _PREFIXES:
            if name.startswith(prefix):
                parts[part][instead + name.removeprefix(prefix)] = entry
                break
        else:
            problems.append(f"{name} is unexpected")

    vision_config = _vision_config(spec, spec.vision or _fields_by_shape(spec, parts["vision"]))
    for config, embedding in (
        (spec.reaction, parts["reaction"].get("model.embed_tokens.weight")),
        (spec.decision, parts["decision"].get("embed_tokens.weight")),
    ):
        if embedding is not None:  # rows may have been added for new tokens, and the config left as it was
            config.vocab_size = embedding.shape[0]
    stock, small = _stock(spec, vision_config, attention), _small(spec, vision_config)
    blank = {name: on_meta(partial(cls._from_config, config)) for name, (cls, config, _) in stock.items()}
    blank |= {name: on_meta(make) for name, make in small.items()}
    if compat.vision_core(blank["vision"]) is not blank["vision"]:
        parts["vision"] = {f"vision_model.{name}": entry for name, entry in parts["vision"].items()}
    for part, module in blank.items():
        wrong = lacking(module, parts[part]) + unexpected(module, parts[part])
        problems += [f"{part}: {problem}" for problem in wrong]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise CheckpointError(
            f"{str(spec.folder)!r} lacks weights or has others: {', '.join(problems[:4])}{more}"
        )

    built = {part: small_network(make(), parts[part], dtype) for part, make in small.items()}
    for part, (cls, config, attn) in stock.items():
        built[part] = stock_network(cls, config, parts[part], dtype, attn)
    return Networks(**built)


def _mlp(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))


def _stock(
    spec: DispiderSpec, vision_config: PretrainedConfig, attention: str
) -> dict[str, tuple[type[PreTrainedModel], PretrainedConfig, str]]:
    """Class, config and attention of the networks that transformers has."""
    return {
        "vision": (compat.vision_classes("clip")[1], vision_config, "sdpa"),
        "decision": (Qwen2Model, spec.decision, attention),
        "reaction": (Qwen2ForCausalLM, spec.reaction, attention),
    }


def _small(spec: DispiderSpec, vision_config: PretrainedConfig) -> dict[str, Callable[[], nn.Module]]:
    """Makers of the others."""
    width, out, merged = spec.decision.hidden_size, spec.reaction.hidden_size, 4 * vision_config.hidden_size
    return {
        "silent_head": lambda: nn.Linear(width, 1, bias=False),
        "pool": lambda: _mlp(merged, width),
        "clip": lambda: _mlp(merged, out),
        "compress": lambda: _mlp(width, out),
    }


def _vision_config(spec: DispiderSpec, fields: Mapping[str, Any]) -> PretrainedConfig:
    """Config of the tower.

    Raises:
        CheckpointError: it lacks the layer that is read, or its patches do not make the tokens that the other
            networks were trained on.
    """
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
