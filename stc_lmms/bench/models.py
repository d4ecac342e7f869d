"""The models that the latency card can measure: `MODELS` has one entry each.

An entry opens the product's own model class, once as dense and once with the method, around the same
weights: those of a checkpoint, or random ones of the real size (latency does not depend on their values).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from stc_lmms import compat
from stc_lmms.bench.cost import DecoderShape, TowerShape
from stc_lmms.bench.dispider import DispiderEntry
from stc_lmms.bench.entry import QUESTION, Entry, Pair, StandInProcessor, fewer_layers
from stc_lmms.bench.options import Options
from stc_lmms.bench.work import Job, ModelShape, Work, stages
from stc_lmms.errors import SettingsError
from stc_lmms.models.base import open_device
from stc_lmms.models.llava_onevision import LlavaOnevision
from stc_lmms.models.llava_onevision_config import check_fit, check_settings
from stc_lmms.settings import Settings, resolve
from stc_lmms.suggest import unknown


def entry(name: str) -> Entry:
    """The entry called `name`.

    Raises:
        SettingsError: there is none yet.
    """
    if name not in MODELS:
        raise SettingsError(f"model {name!r} has no latency card yet (valid: {', '.join(sorted(MODELS))})")
    return MODELS[name]


@dataclass(frozen=True)
class LlavaOnevisionEntry:
    """LLaVA-OneVision; `sizes` holds the language models of the public checkpoints."""

    sizes: dict[str, dict[str, Any]]
    vision: dict[str, Any]

    def check(self, options: Options) -> Settings:
        """See `Entry.check`."""
        device = open_device(options.device)
        args = options.method_args | {"method": options.method, "device": str(device)}
        args["prefill_frames"] = str(options.execution.prefill_frames)
        args["cuda_graphs"] = str(options.execution.cuda_graphs)
        if options.pretrained is not None:
            args |= {"pretrained": options.pretrained, "dtype": options.dtype}
            settings = resolve(args)
            check_settings(settings)
            return settings
        automatic = "bfloat16" if device.type == "cuda" else "float32"
        args["dtype"] = automatic if options.dtype == "auto" else options.dtype
        settings = resolve(args | {"pretrained": f"random weights, {options.size}"})
        check_fit(settings, self._config(options))
        return settings

    def open(self, options: Options, settings: Settings) -> Pair:
        """See `Entry.open`."""
        plain = dataclasses.replace(settings, method="none", options={})
        if options.pretrained is not None:
            model = LlavaOnevision(settings)
            dense = model.with_settings(plain)
        else:
            device, config = torch.device(settings.device), self._config(options)
            weights = compat.random_weights(
                LlavaOnevisionForConditionalGeneration,
                config,
                dtype=getattr(torch, settings.dtype),
                device=device,
                attn_implementation=settings.attn_implementation,
            )
            processor = StandInProcessor(config.vision_config.image_size, device)
            dense, model = (LlavaOnevision.from_parts(s, weights, processor) for s in (plain, settings))
        for each in (dense, model):
            each.eos_ids = frozenset()  # every answer has the same length, whatever the weights say
        return Pair(dense, model)

    def shape(self, model: LlavaOnevision) -> ModelShape:
        """See `Entry.shape`."""
        vision, text = model.model.config.vision_config, model.model.config.text_config
        return ModelShape(
            TowerShape(
                len(model.tower.blocks),
                model.tower.num_tokens,
                vision.hidden_size,
                vision.intermediate_size,
                vision.patch_size,
            ),
            DecoderShape(
                text.num_hidden_layers,
                text.hidden_size,
                text.num_attention_heads,
                text.num_key_value_heads,
                text.hidden_size // text.num_attention_heads,
                text.intermediate_size,
                text.vocab_size,
            ),
            model.tokens_per_frame,
            model.dtype.itemsize,
        )

    def prompt_tokens(self, model: LlavaOnevision) -> tuple[int, int]:
        """See `Entry.prompt_tokens`."""
        before, behind = (len(model.embed_text(part)) for part in model.prompt_parts(QUESTION))
        return before, behind + (model.prompt == "chat")  # the newline token that ends the video

    def stages(self, model: LlavaOnevision, job: Job) -> dict[str, Work] | None:
        """See `Entry.stages`."""
        return stages(self.shape(model), model.method, job)

    def _config(self, options: Options) -> LlavaOnevisionConfig:
        if options.size not in self.sizes:
            raise SettingsError(unknown("size", options.size, self.sizes))
        text = fewer_layers(self.sizes[options.size], options.llm_layers)
        vision = fewer_layers(self.vision, options.layers)
        return LlavaOnevisionConfig(
            vision_config={"model_type": "siglip_vision_model", "vision_use_head": False} | vision,
            text_config={"model_type": "qwen2", "max_position_embeddings": 32768} | text,
            tie_word_embeddings=text["tie_word_embeddings"],
        )


# Public sizes; of SigLIP-so400m (26 of its 27 layers are in the checkpoints) and of Qwen2.
MODELS: dict[str, Entry] = {
    "llava_ov": LlavaOnevisionEntry(
        sizes={
            "0.5b": {
                "hidden_size": 896,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "intermediate_size": 4864,
                "vocab_size": 151936,
                "tie_word_embeddings": True,
            },
            "7b": {
                "hidden_size": 3584,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "intermediate_size": 18944,
                "vocab_size": 152064,
                "tie_word_embeddings": False,
            },
        },
        vision={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
    ),
    # CLIP ViT-L/14, Qwen2-1.5B and Qwen2-7B.
    "dispider": DispiderEntry(
        sizes={
            "7b": {
                "hidden_size": 3584,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "intermediate_size": 18944,
                "vocab_size": 152064,
                "max_position_embeddings": 32768,
            }
        },
        decision={
            "hidden_size": 1536,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": 8960,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
        },
        vision={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        },
    ),
}
