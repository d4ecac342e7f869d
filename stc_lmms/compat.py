"""The only place that knows transformers' internals and how they differ between 4.56 and 5.x."""

import functools
import inspect
from importlib import import_module
from pathlib import Path

import torch
import transformers
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    DynamicCache,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.configuration_utils import PretrainedConfig

from stc_lmms.errors import CheckpointError

_HUB_TIMEOUT_S = 10


def vision_core(model: nn.Module) -> nn.Module:
    """The module that holds `embeddings` and `encoder` (5.x dropped the `vision_model` level)."""
    return getattr(model, "vision_model", model)


def run_encoder_layer(layer: nn.Module, h_FTD: Tensor) -> Tensor:
    """One stock encoder layer without a mask (4.56 returns a tuple; its CLIP takes a second mask)."""
    masks = (None, None) if _takes_causal_mask(type(layer)) else (None,)
    out = layer(h_FTD, *masks)
    return out[0] if isinstance(out, tuple) else out


@functools.cache
def _takes_causal_mask(layer_class: type[nn.Module]) -> bool:
    return "causal_attention_mask" in inspect.signature(layer_class.forward).parameters


def new_cache() -> DynamicCache:
    """An empty, growing KV cache."""
    return DynamicCache()


def cache_nbytes(cache: DynamicCache) -> int:
    """Bytes of all keys and values."""
    return sum(
        x.nbytes
        for layer in cache.layers
        for x in (layer.keys, layer.values)
        if isinstance(x, Tensor)  # None before the first token
    )


class LanguageModel:
    """The stock decoder of a vision-language model and its head, one sequence at a time.

    Shapes: L tokens, D width, V vocabulary.
    """

    def __init__(self, model: nn.Module):
        self._decoder = model.model.language_model
        self._head = model.lm_head
        self.embed: nn.Module = model.get_input_embeddings()

    def hidden(self, embeds_LD: Tensor, cache: DynamicCache) -> Tensor:
        """Last hidden states [L,D] of L new embeddings; their keys and values go into `cache`."""
        out = self._decoder(inputs_embeds=embeds_LD[None], past_key_values=cache, use_cache=True)
        return out.last_hidden_state[0]

    def head(self, hidden_D: Tensor) -> Tensor:
        """Float32 logits [V]."""
        return self._head(hidden_D).float()


def eos_ids(model: PreTrainedModel, tokenizer: object) -> frozenset[int]:
    """Token ids that end an answer: those of the generation config and the tokenizer's."""
    found = getattr(model.generation_config, "eos_token_id", None)
    ids = found if isinstance(found, list) else [found]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def load_config(pretrained: str, model_type: str, revision: str | None = None) -> PretrainedConfig:
    """The checkpoint's configuration, before any weight.

    Raises:
        CheckpointError: there is no such folder, the hub cannot be reached, or it is another model.
    """
    try:
        _reach_hub(pretrained, revision)
        config = AutoConfig.from_pretrained(pretrained, revision=revision)
    except (OSError, ValueError) as error:
        what = "has no usable config.json" if Path(pretrained).is_dir() else "is not a local folder"
        hub = "" if Path(pretrained).is_dir() else " and was not found on (or not reachable at) the model hub"
        raise CheckpointError(
            f"pretrained={pretrained!r} {what}{hub}; give a folder with a {model_type} checkpoint, "
            f"or pretrained=demo ({_first_line(error)})"
        ) from error
    if config.model_type != model_type:
        raise CheckpointError(
            f"pretrained={pretrained!r} is a {config.model_type!r} checkpoint, not {model_type!r}"
        )
    return config


def _reach_hub(pretrained: str, revision: str | None) -> None:
    """Ask the hub for a model that is not on this disk; without a network, loading would retry for 30 s."""
    if Path(pretrained).is_dir() or constants.HF_HUB_OFFLINE:
        return
    if not isinstance(try_to_load_from_cache(pretrained, "config.json", revision=revision), str):
        try:
            HfApi().model_info(pretrained, revision=revision, timeout=_HUB_TIMEOUT_S)
        except Exception as error:  # each version of the hub's client has another HTTP library
            raise OSError(_first_line(error)) from error


def load_processor(pretrained: str, revision: str | None = None) -> ProcessorMixin:
    """Tokenizer and video processor of a checkpoint.

    Raises:
        CheckpointError: one of their files is missing or unreadable.
    """
    try:
        return AutoProcessor.from_pretrained(pretrained, revision=revision)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot load the tokenizer and processor of {pretrained!r}: {_first_line(error)}"
        ) from error


def load_weights(
    model_class: type[PreTrainedModel],
    pretrained: str,
    *,
    dtype: str | torch.dtype,
    attn_implementation: str,
    revision: str | None = None,
) -> PreTrainedModel:
    """The stock model from safetensors, complete: a missing or misshaped weight is an error.

    Raises:
        CheckpointError: as above, or there are no safetensors weights, or not the right ones.
    """
    try:
        model, report = model_class.from_pretrained(
            pretrained,
            revision=revision,
            dtype=dtype,
            attn_implementation={"vision_config": "sdpa", "text_config": attn_implementation},
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise CheckpointError(f"cannot load the weights of {pretrained!r}: {_first_line(error)}") from error
    wrong = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if wrong:
        raise CheckpointError(
            f"{pretrained!r} lacks {len(wrong)} weights or has them in other shapes: {', '.join(wrong[:3])}"
        )
    return model.eval()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def vision_classes(kind: str) -> tuple[type[PretrainedConfig], type[PreTrainedModel]]:
    """Config and model class of a vision tower: siglip, clip, qwen2_vl, qwen2_5_vl or qwen3_vl.

    Raises:
        CheckpointError: unknown kind, or this version of transformers does not have it.
    """
    if kind not in _VISION_CLASSES:
        raise CheckpointError(f"unknown vision model {kind!r}; known: {', '.join(_VISION_CLASSES)}")
    names = _VISION_CLASSES[kind]
    try:
        config = import_module(f"transformers.models.{kind}.configuration_{kind}")
        modeling = import_module(f"transformers.models.{kind}.modeling_{kind}")
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{kind} is not in transformers {transformers.__version__}; it needs 4.57 or newer"
        ) from None
    return getattr(config, names[0]), getattr(modeling, names[1])


_VISION_CLASSES = {
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel"),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel"),
    "qwen2_vl": ("Qwen2VLVisionConfig", "Qwen2VisionTransformerPretrainedModel"),
    "qwen2_5_vl": ("Qwen2_5_VLVisionConfig", "Qwen2_5_VisionTransformerPretrainedModel"),
    "qwen3_vl": ("Qwen3VLVisionConfig", "Qwen3VLVisionModel"),
}


def tiny_vision_model(
    kind: str, config: dict[str, object], weights: dict[str, Tensor], dtype: torch.dtype
) -> PreTrainedModel:
    """A vision model from a config and a complete state dict in 4.x naming, on SDPA.

    Raises:
        CheckpointError: unknown kind, not in this version of transformers, or not the model's weights.
    """
    config_class, model_class = vision_classes(kind)
    model = model_class._from_config(config_class(**config), attn_implementation="sdpa").eval().to(dtype)
    if vision_core(model) is model:
        weights = {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the config: {_first_line(error)}") from error
    return model
