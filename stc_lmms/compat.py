"""Differences between transformers 4.56 and 5.x: configurations, weights, towers.

`compat_llm.py` covers the decoders, `compat_qwen_vl.py` Qwen-VL models. No other module uses internals of
transformers.
"""

import functools
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor, PreTrainedModel, ProcessorMixin
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


def eos_ids(model: PreTrainedModel, tokenizer: Any, *end_tokens: str) -> frozenset[int]:
    """Token ids that end an answer: those of the generation config, the tokenizer's, and `end_tokens`."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    ids = ids if isinstance(ids, list) else [ids]
    ends = [tokenizer.convert_tokens_to_ids(token) for token in end_tokens]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id, *ends) if i is not None)


def load_config(
    pretrained: str, model_type: str, revision: str | None = None, demo: bool = False
) -> PretrainedConfig:
    """The configuration of a folder or hub id; `demo` makes the error message suggest `pretrained=demo`.

    Raises:
        CheckpointError: there is no such folder, the hub cannot be reached, or the model type is wrong.
    """
    try:
        reach_hub(pretrained, revision)
        config = AutoConfig.from_pretrained(pretrained, revision=revision)
    except (OSError, ValueError) as error:
        # Raised as a ValueError if this version of transformers does not know the type.
        kind = None
        if isinstance(error, ValueError):
            kind = PretrainedConfig.get_config_dict(pretrained, revision=revision)[0].get("model_type")
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


def _foreign(pretrained: str, kind: str, required: str) -> str:
    return f"pretrained={pretrained!r} is a {kind!r} checkpoint, not {required!r}"


def reach_hub(pretrained: str, revision: str | None) -> None:
    """Check that the hub has a model that is not cached; without a network, loading would retry for 30 s."""
    if Path(pretrained).is_dir() or constants.HF_HUB_OFFLINE:
        return
    if not isinstance(try_to_load_from_cache(pretrained, "config.json", revision=revision), str):
        try:
            HfApi().model_info(pretrained, revision=revision, timeout=_HUB_TIMEOUT_S)
        except Exception as error:  # the HTTP library depends on the version of the hub client
            raise OSError(first_line(error)) from error


def load_processor(pretrained: str, revision: str | None = None) -> ProcessorMixin:
    """Tokenizer and video processor of a checkpoint.

    Raises:
        CheckpointError: one of their files is missing or unreadable.
    """
    try:
        processor = AutoProcessor.from_pretrained(pretrained, revision=revision)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot load the tokenizer and processor of {pretrained!r}: {first_line(error)}"
        ) from error
    # Qwen-VL frames have their final size: 5.x must not warn about a limit that it sets when resizing.
    video_processor = getattr(processor, "video_processor", None)
    if getattr(video_processor, "cap_pixels_per_frame", False) is None:
        video_processor.cap_pixels_per_frame = False
    return processor


def split_at_video(
    processor: ProcessorMixin, content: list[dict[str, str]], cure: str = "use the official checkpoint"
) -> tuple[str, str]:
    """Text before and after the video of a user's turn in the checkpoint's chat template.

    Raises:
        CheckpointError: the template has no video token; the message ends with `cure`.
    """
    turn = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    before, video, after = text.partition(processor.video_token)
    if not video:
        raise CheckpointError(f"the checkpoint's chat template has no place for a video; {cure}")
    return before, after


def load_weights(
    model_class: type[PreTrainedModel],
    pretrained: str,
    dtype: str | torch.dtype,
    attention: str,
    revision: str | None = None,
) -> PreTrainedModel:
    """Load the stock model from safetensors; a missing or misshaped weight is an error.

    Raises:
        CheckpointError: as above, or there are no safetensors weights, or not the right ones.
    """
    try:
        model, report = model_class.from_pretrained(
            pretrained,
            revision=revision,
            dtype=dtype,
            attn_implementation={"vision_config": "sdpa", "text_config": attention},
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
    dtype: torch.dtype,
    device: torch.device,
    attention: str,
) -> PreTrainedModel:
    """A stock model with random weights, created on its device in its dtype, without a copy on the CPU."""
    parts = {"vision_config": "sdpa", "text_config": attention}
    with torch.device(device):
        return model_class._from_config(config, dtype=dtype, attn_implementation=parts).eval()


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
