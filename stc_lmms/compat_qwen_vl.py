"""Differences between versions of transformers that concern Qwen-VL: classes, decoder, positions."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from stc_lmms import compat_llm
from stc_lmms.errors import CheckpointError
from stc_lmms.ops.mrope import axis_of_frequency
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.ops.rope import rotation

_CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


def model_class(kind: str) -> type[PreTrainedModel]:
    """The stock model: qwen2_vl, qwen2_5_vl or qwen3_vl.

    Raises:
        CheckpointError: this version of transformers does not have it.
    """
    if not hasattr(transformers, _CLASSES[kind]):
        raise CheckpointError(
            f"{kind} is not in transformers {transformers.__version__}; it needs 4.57 or newer"
        )
    return getattr(transformers, _CLASSES[kind])


class MropeLanguageModel(compat_llm.PositionedLanguageModel):
    """The decoder of a Qwen-VL model, whose inputs are always `PositionedEmbeds`."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        config, rotary = self._decoder.config, self._decoder.rotary_emb
        sections = compat_llm.rope_parameters(config).get("mrope_section") or rotary.mrope_section
        interleaved = config.model_type.startswith("qwen3_vl")  # fixed in the class, not in the config
        self._axis = axis_of_frequency(sections, interleaved).to(self.device)

    def _arguments(
        self, embeds_LD: PositionedEmbeds, cache: DynamicCache | None, unrotated: bool
    ) -> dict[str, Any]:
        length = len(embeds_LD)
        start = 0 if cache is None else cache.get_seq_length()
        # Four rows: the first one states that this is a single sequence. Without it, 4.56 uses the time axis
        # instead, and flash attention starts a new sequence wherever that does not increase.
        order_L = torch.arange(start, start + length, device=self.device)
        position_ids_3L = order_L.new_zeros(3, length) if unrotated else embeds_LD.position_ids_AL
        arguments = {
            "inputs_embeds": embeds_LD.embeds_LD[None],
            "position_ids": torch.cat((order_L[None], position_ids_3L))[:, None],
        }
        if embeds_LD.deepstack_BLD is not None:
            arguments["visual_pos_masks"] = torch.ones(1, length, dtype=torch.bool, device=self.device)
            arguments["deepstack_visual_embeds"] = list(embeds_LD.deepstack_BLD)
        return arguments

    def rotation(self, position_ids_AL: Tensor) -> tuple[Tensor, Tensor]:
        """See `ops.rope.rotation`."""
        return rotation(position_ids_AL[self._axis].T, self.inv_freq, self.dtype)
