"""The only place that knows transformers' internals and how they differ between 4.56 and 5.x.

(What concerns Qwen-VL models alone is in `compat_qwen_vl.py`.)
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoProcessor,
    DynamicCache,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.configuration_utils import PretrainedConfig

from stc_lmms.errors import CheckpointError
from stc_lmms.ops.places import Placed
from stc_lmms.ops.rope import rotation

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


# Attention of one layer: gets its index, q [H,L,d], k and v [G,S,d] and the scale; gives [H,L,d].
Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]


_HOOK = "stc_lmms_attend"


def _hooked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    attend: Attend,
    **unused: object,
) -> tuple[Tensor, None]:
    out_HLd = attend(module.layer_idx, query[0], key[0], value[0], scaling)
    return out_HLd.transpose(0, 1)[None], None


# A name without a mask function of its own: transformers makes no mask, what is visible is up to `attend`.
AttentionInterface.register(_HOOK, _hooked_attention)


class LanguageModel:
    """The stock decoder of a (vision-)language model and its head, one sequence at a time.

    Attributes:
        embed: the input embedding, int64 ids [L] to [L,D].
        inv_freq: RoPE angles per position [d/2].
        layers: number of decoder layers.
        kv_heads: G, key heads.
        head_dim: d.

    Shapes: L tokens, D width, V vocabulary, H query heads, G key heads, S keys, d head width.
    """

    def __init__(self, model: nn.Module):
        self._decoder = getattr(model.model, "language_model", model.model)  # of a plain decoder, itself
        self._head = model.lm_head
        self.embed: nn.Module = model.get_input_embeddings()
        config = self._decoder.config
        self.inv_freq: Tensor = self._decoder.rotary_emb.inv_freq
        self.layers: int = config.num_hidden_layers
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = head_dim(config)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, keys and values."""
        return self._decoder.dtype

    @property
    def device(self) -> torch.device:
        """Where the decoder runs."""
        return self._decoder.device

    def new_cache(self) -> DynamicCache:
        """An empty, growing KV cache."""
        return DynamicCache()

    def cache_nbytes(self, cache: DynamicCache) -> int:
        """Bytes of all keys and values."""
        return sum(
            x.nbytes
            for layer in cache.layers
            for x in (layer.keys, layer.values)
            if isinstance(x, Tensor)  # None before the first token
        )

    def hidden(self, embeds_LD: Tensor, cache: DynamicCache | None, attend: Attend | None = None) -> Tensor:
        """Last hidden states [L,D] of L new embeddings.

        Args:
            embeds_LD: the embeddings; `Placed` ones where the decoder does not place them itself.
            cache: gets their keys and values; positions go on behind it. None: nothing is kept, and
                queries and keys reach `attend` without RoPE (all positions are 0).
            attend: runs in place of attention in every layer; it gets all keys of `cache`, or the new ones
                without one. None: the model's own attention.
        """
        given = self._given(embeds_LD, cache, unrotated=attend is not None and cache is None)
        if attend is None:
            out = self._decoder(**given, past_key_values=cache, use_cache=True)
            return out.last_hidden_state[0]
        config = self._decoder.config
        own = config._attn_implementation
        config._attn_implementation = _HOOK
        try:
            out = self._decoder(**given, past_key_values=cache, use_cache=cache is not None, attend=attend)
        finally:
            config._attn_implementation = own
        return out.last_hidden_state[0]

    def _given(self, embeds_LD: Tensor, cache: DynamicCache | None, unrotated: bool) -> dict[str, Any]:
        """Arguments of the decoder: the embeddings, and their positions where it must not choose them."""
        given: dict[str, Any] = {"inputs_embeds": embeds_LD[None]}
        if unrotated:
            given["position_ids"] = torch.zeros(1, len(embeds_LD), dtype=torch.long, device=self.device)
        return given

    def places(self, embeds_LD: Tensor, start: int) -> Tensor:
        """Places on the axes of this decoder's RoPE, int64 [A,L].

        Args:
            embeds_LD: the tokens.
            start: number in the stream of the first of them.
        """
        return torch.arange(start, start + len(embeds_LD), device=self.device)[None]

    def shifts(self, embeds_LD: Tensor, starts: Sequence[int], prefix: int) -> Tensor:
        """How much nearer each of F frames would stand if the video began with it, int64 [F,A].

        `starts` are the numbers in the stream of their first tokens, `prefix` is that of the first frame's.
        """
        return torch.tensor(starts, dtype=torch.long, device=self.device)[:, None] - prefix

    def rotation(self, places_AL: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [L,d] at these places, see `ops.rope.rotation`."""
        return rotation(places_AL[0], self.inv_freq, self.dtype)

    def head(self, hidden_D: Tensor) -> Tensor:
        """Float32 logits [V]."""
        return self._head(hidden_D).float()


class PlacedLanguageModel(LanguageModel):
    """A decoder that is given `Placed` tokens, never bare embeddings.

    Flash attention takes places that do not count up by one for several sequences, so it cannot be used.
    """

    def _given(self, embeds_LD: Placed, cache: DynamicCache | None, unrotated: bool) -> dict[str, Any]:
        given = super()._given(embeds_LD.embeds_LD, cache, unrotated)
        return {"position_ids": embeds_LD.places_AL} | given

    def places(self, embeds_LD: Placed, start: int) -> Tensor:
        """Those that it carries."""
        return embeds_LD.places_AL

    def shifts(self, embeds_LD: Placed, starts: Sequence[int], prefix: int) -> Tensor:
        """Those that it carries."""
        return embeds_LD.shifts_FA


def head_dim(text_config: PretrainedConfig) -> int:
    """Width of one attention head."""
    return getattr(text_config, "head_dim", None) or (
        text_config.hidden_size // text_config.num_attention_heads
    )


def why_not_hooked(text_config: PretrainedConfig) -> str | None:
    """Why a memory cannot do the attention of this decoder itself, or None if it can.

    It rotates keys itself, so it must know the rotation; and it sees every layer's whole past.
    """
    rope = rope_parameters(text_config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        return f"its RoPE is of type {kind!r}, not plain"
    if set(getattr(text_config, "layer_types", None) or ()) - {"full_attention"}:
        return "some of its layers have a sliding window of their own"
    return None


def rope_parameters(text_config: PretrainedConfig) -> dict[str, Any]:
    """Parameters of its RoPE (5.x and 4.x name)."""
    return getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}


def eos_ids(model: PreTrainedModel, tokenizer: object) -> frozenset[int]:
    """Token ids that end an answer: those of the generation config and the tokenizer's."""
    found = getattr(model.generation_config, "eos_token_id", None)
    ids = found if isinstance(found, list) else [found]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def load_config(
    pretrained: str, model_type: str, revision: str | None = None, demo: bool = False
) -> PretrainedConfig:
    """The checkpoint's configuration, before any weight.

    Args:
        pretrained: folder or hub id.
        model_type: what it must be.
        revision: of a hub id.
        demo: name `pretrained=demo` as a way out.

    Raises:
        CheckpointError: there is no such folder, the hub cannot be reached, or it is another model.
    """
    try:
        reach_hub(pretrained, revision)
        config = AutoConfig.from_pretrained(pretrained, revision=revision)
    except (OSError, ValueError) as error:
        # A type that this transformers does not know is a ValueError.
        kind = _model_type(pretrained, revision) if isinstance(error, ValueError) else None
        if kind not in (None, model_type):
            raise CheckpointError(_foreign(pretrained, kind, model_type)) from error
        what = "has no usable config.json" if Path(pretrained).is_dir() else "is not a local folder"
        hub = "" if Path(pretrained).is_dir() else " and was not found on (or not reachable at) the model hub"
        raise CheckpointError(
            f"pretrained={pretrained!r} {what}{hub}; give a folder with a {model_type} checkpoint"
            f"{', or pretrained=demo' if demo else ''} ({first_line(error)})"
        ) from error
    if config.model_type != model_type:
        raise CheckpointError(_foreign(pretrained, config.model_type, model_type))
    return config


def _foreign(pretrained: str, kind: str, wanted: str) -> str:
    return f"pretrained={pretrained!r} is a {kind!r} checkpoint, not {wanted!r}"


def _model_type(pretrained: str, revision: str | None) -> str | None:
    """`model_type` of a checkpoint of whatever kind; None if its config.json has none."""
    return PretrainedConfig.get_config_dict(pretrained, revision=revision)[0].get("model_type")


def reach_hub(pretrained: str, revision: str | None) -> None:
    """Ask the hub for a model that is not on this disk; without a network, loading would retry for 30 s."""
    if Path(pretrained).is_dir() or constants.HF_HUB_OFFLINE:
        return
    if not isinstance(try_to_load_from_cache(pretrained, "config.json", revision=revision), str):
        try:
            HfApi().model_info(pretrained, revision=revision, timeout=_HUB_TIMEOUT_S)
        except Exception as error:  # each version of the hub's client has another HTTP library
            raise OSError(first_line(error)) from error


def load_processor(pretrained: str, revision: str | None = None) -> ProcessorMixin:
    """Tokenizer and video processor of a checkpoint.

    Raises:
        CheckpointError: one of their files is missing or unreadable.
    """
    try:
        return AutoProcessor.from_pretrained(pretrained, revision=revision)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot load the tokenizer and processor of {pretrained!r}: {first_line(error)}"
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
        raise CheckpointError(f"cannot load the weights of {pretrained!r}: {first_line(error)}") from error
    wrong = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if wrong:
        raise CheckpointError(
            f"{pretrained!r} lacks {len(wrong)} weights or has them in other shapes: {', '.join(wrong[:3])}"
        )
    return model.eval()


def random_weights(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str,
) -> PreTrainedModel:
    """A stock model with random weights, made in its dtype on its device: no copy passes through the CPU."""
    attention: Any = attn_implementation
    if hasattr(config, "text_config"):
        attention = {"vision_config": "sdpa", "text_config": attn_implementation}
    with torch.device(device):
        model = model_class._from_config(config, dtype=dtype, attn_implementation=attention)
    return model.eval()


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type."""
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
        raise CheckpointError(f"the weights do not fit the config: {first_line(error)}") from error
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
    inner = "vision_tower." + ("" if vision_core(tower) is tower else "vision_model.")
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
        raise CheckpointError(f"the weights do not fit the config: {first_line(error)}") from error
    return model.eval().to(dtype)


def _replace_prefix(name: str, prefixes: dict[str, str]) -> str:
    old = next(prefix for prefix in prefixes if name.startswith(prefix))
    return prefixes[old] + name.removeprefix(old)
