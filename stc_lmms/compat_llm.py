"""The part of `compat.py` that concerns decoders: a stock one, one sequence at a time, and its attention."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.configuration_utils import PretrainedConfig

from stc_lmms.errors import SettingsError
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.ops.rope import rotation
from stc_lmms.ops.transfer import to_device

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


# transformers creates no mask for this name: `attend` decides what is visible.
AttentionInterface.register(_HOOK, _hooked_attention)


class LanguageModel:
    """The stock decoder of a (vision-)language model and its head, one sequence at a time.

    Attributes:
        embed: the input embedding, int64 ids [L] to [L,D].
        inv_freq: RoPE angles per position [d/2].

    Shapes: L tokens, D width, V vocabulary, H query heads, G key heads, S keys, d head width.
    """

    def __init__(self, model: nn.Module):
        self._decoder = getattr(model.model, "language_model", model.model)  # text-only models have none
        self._head = model.lm_head
        parameters = inspect.signature(self._decoder.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"  # 4.x
        self.embed: nn.Module = model.get_input_embeddings()
        config = self._decoder.config
        self.inv_freq: Tensor = self._decoder.rotary_emb.inv_freq
        self.layers: int = config.num_hidden_layers
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = head_dim(config)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights, keys and values."""
        return self._decoder.dtype

    @property
    def device(self) -> torch.device:
        """Device of the decoder."""
        return self._decoder.device

    def new_cache(self) -> DynamicCache:
        """An empty, growing KV cache."""
        return DynamicCache()

    def cache_nbytes(self, cache: DynamicCache) -> int:
        """Bytes of all keys and values."""
        tensors = (x for layer in cache.layers for x in (layer.keys, layer.values))
        return sum(x.nbytes for x in tensors if isinstance(x, Tensor))  # None before the first token

    def hidden(self, embeds_LD: Tensor, cache: DynamicCache | None, attend: Attend | None = None) -> Tensor:
        """Last hidden states [L,D] of L new embeddings.

        Args:
            embeds_LD: the embeddings; `PositionedEmbeds` if the decoder does not assign positions itself.
            cache: receives their keys and values; positions continue after those it holds. None: nothing is
                kept, and queries and keys reach `attend` without RoPE (all positions are 0).
            attend: replaces attention in every layer; it gets all keys of `cache`, or only the new ones if
                there is none. None: the model's own attention.
        """
        arguments = self._arguments(embeds_LD, cache, unrotated=attend is not None and cache is None)
        arguments |= {self._cache_argument: cache, "use_cache": attend is None or cache is not None}
        if attend is None:
            return self._decoder(**arguments).last_hidden_state[0]
        config = self._decoder.config
        own = config._attn_implementation
        config._attn_implementation = _HOOK
        try:
            return self._decoder(**arguments, attend=attend).last_hidden_state[0]
        finally:
            config._attn_implementation = own

    def _arguments(self, embeds_LD: Tensor, cache: DynamicCache | None, unrotated: bool) -> dict[str, Any]:
        """Arguments of the decoder: the embeddings, and their positions if it must not choose them."""
        arguments: dict[str, Any] = {"inputs_embeds": embeds_LD[None]}
        if unrotated:
            arguments["position_ids"] = torch.zeros(1, len(embeds_LD), dtype=torch.long, device=self.device)
        return arguments

    def position_ids(self, embeds_LD: Tensor, start: int) -> Tensor:
        """Position ids on the axes of this decoder's RoPE, int64 [A,L], from token `start` on."""
        return torch.arange(start, start + len(embeds_LD), device=self.device)[None]

    def shifts(self, embeds_LD: Tensor, starts: Sequence[int], prefix: int) -> Tensor:
        """By how much the positions of each of F frames decrease if the video starts with it, int64 [F,A].

        `starts` are the indices in the stream of their first tokens, `prefix` is that of the first frame.
        """
        return to_device(starts, self.device, torch.long)[:, None] - prefix

    def rotation(self, position_ids_AL: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [L,d] at these positions, see `ops.rope.rotation`."""
        return rotation(position_ids_AL[0], self.inv_freq, self.dtype)

    def head(self, hidden_D: Tensor) -> Tensor:
        """Float32 logits [V]."""
        return self._head(hidden_D).float()


class PositionedLanguageModel(LanguageModel):
    """A decoder whose inputs are always `PositionedEmbeds`.

    Flash attention cannot be used: it treats positions that do not increase by one as separate sequences.
    """

    def _arguments(
        self, embeds_LD: PositionedEmbeds, cache: DynamicCache | None, unrotated: bool
    ) -> dict[str, Any]:
        arguments = super()._arguments(embeds_LD.embeds_LD, cache, unrotated)
        return {"position_ids": embeds_LD.position_ids_AL} | arguments

    def position_ids(self, embeds_LD: PositionedEmbeds, start: int) -> Tensor:
        """The given ones."""
        return embeds_LD.position_ids_AL

    def shifts(self, embeds_LD: PositionedEmbeds, starts: Sequence[int], prefix: int) -> Tensor:
        """The given ones."""
        return embeds_LD.shifts_FA


def head_dim(text_config: PretrainedConfig) -> int:
    """Width of one attention head."""
    own = getattr(text_config, "head_dim", None)
    return own or text_config.hidden_size // text_config.num_attention_heads


def check_hook(memory: Any, name: str, text_config: PretrainedConfig) -> None:
    """Refuse a memory that runs attention, called `name`, if it cannot run that of this decoder.

    Such a memory rotates keys itself and attends to the complete past in every layer.

    Raises:
        SettingsError: says why.
    """
    rope, reason = rope_parameters(text_config), ""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        reason = f"its RoPE is of type {kind!r}, not default"
    elif set(getattr(text_config, "layer_types", None) or ()) - {"full_attention"}:
        reason = "some of its layers have their own sliding window"
    if reason and memory.runs_attention:
        raise SettingsError(f"memory={name} cannot run the attention of this model: {reason}")


def rope_parameters(text_config: PretrainedConfig) -> dict[str, Any]:
    """Parameters of its RoPE (5.x and 4.x name)."""
    return getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}
