"""The part of `compat.py` that concerns Qwen2-VL, Qwen2.5-VL and Qwen3-VL: classes, decoder, positions."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, ProcessorMixin

from stc_lmms import compat, compat_llm
from stc_lmms.errors import CheckpointError
from stc_lmms.ops.mrope import axis_of_frequency, rotation_3d
from stc_lmms.ops.positions import PositionedEmbeds

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


def load_processor(pretrained: str, revision: str | None = None) -> ProcessorMixin:
    """See `compat.load_processor`.

    Frames come in their final size, so 5.x must not warn about a limit that it would set when resizing.
    """
    processor = compat.load_processor(pretrained, revision)
    if getattr(processor.video_processor, "cap_pixels_per_frame", False) is None:
        processor.video_processor.cap_pixels_per_frame = False
    return processor


class MropeLanguageModel(compat_llm.PositionedLanguageModel):
    """The decoder of a Qwen-VL model: it is given `PositionedEmbeds` tokens, never bare embeddings."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        config, rotary = self._decoder.config, self._decoder.rotary_emb
        sections = compat_llm.rope_parameters(config).get("mrope_section") or rotary.mrope_section
        interleaved = config.model_type.startswith("qwen3_vl")  # fixed in the class, not in the config
        self._axis = axis_of_frequency(sections, interleaved).to(self.device)

    def _given(
        self, embeds_LD: PositionedEmbeds, cache: DynamicCache | None, unrotated: bool
    ) -> dict[str, Any]:
        length = len(embeds_LD)
        start = 0 if cache is None else cache.get_seq_length()
        # Four rows: the first says that this is one sequence. Without it 4.56 takes the time axis for that,
        # and flash attention sees a new sequence wherever it does not count up.
        order_L = torch.arange(start, start + length, device=self.device)
        position_ids_3L = order_L.new_zeros(3, length) if unrotated else embeds_LD.position_ids_AL
        given = {
            "inputs_embeds": embeds_LD.embeds_LD[None],
            "position_ids": torch.cat((order_L[None], position_ids_3L))[:, None],
        }
        if embeds_LD.deepstack_BLD is not None:
            given["visual_pos_masks"] = torch.ones(1, length, dtype=torch.bool, device=self.device)
            given["deepstack_visual_embeds"] = list(embeds_LD.deepstack_BLD)
        return given

    def rotation(self, position_ids_AL: Tensor) -> tuple[Tensor, Tensor]:
        """See `ops.mrope.rotation_3d`."""
        return rotation_3d(position_ids_AL, self.inv_freq, self._axis, self.dtype)


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
        options: of the whole config.
        weights: parameters by name; None leaves them random.

    Raises:
        CheckpointError: not in this version of transformers, or the weights are not the model's.
    """
    cls = model_class(kind)
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
            raise CheckpointError(
                f"the weights do not fit the config: {str(error).splitlines()[0]}"
            ) from error
    return model.eval()
