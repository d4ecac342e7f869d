"""The models that the latency card can measure: `MODELS` has one entry each.

An entry opens the product's own model class, once as dense and once with the method, around the same
weights: those of a checkpoint, or random ones of the real size (latency does not depend on their values).
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from stc_lmms import compat
from stc_lmms.bench.entry import (
    QUESTION,
    STAND_IN,
    Entry,
    Pair,
    StandInProcessor,
    fewer_layers,
    method_settings,
    model_shape,
)
from stc_lmms.bench.options import Options
from stc_lmms.bench.work import ModelShape, Work, Workload, stages
from stc_lmms.config import Settings
from stc_lmms.errors import SettingsError
from stc_lmms.models.dispider.bench import DispiderEntry
from stc_lmms.models.llava_onevision.config import check_fit, check_settings
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.models.qwen_vl.bench import TOWERS
from stc_lmms.models.streamforest.bench import StreamForestEntry
from stc_lmms.models.streamforest.config import SO400M
from stc_lmms.settings import with_method
from stc_lmms.suggest import unknown


def entry(name: str) -> Entry:
    """The entry called `name`.

    Raises:
        SettingsError: there is none yet.
    """
    if name not in MODELS:
        valid = ", ".join(sorted([*MODELS, *TOWERS]))
        raise SettingsError(f"model {name!r} has no latency card yet (valid: {valid})")
    return MODELS[name]


@dataclass(frozen=True)
class LlavaOnevisionEntry:
    """LLaVA-OneVision; `sizes` holds the language models of the public checkpoints."""

    sizes: dict[str, dict[str, Any]]
    vision: dict[str, Any]

    def check(self, options: Options) -> Settings:
        """See `Entry.check`."""
        settings = method_settings(options)
        if options.pretrained is not None:
            check_settings(settings)
        else:
            check_fit(settings, self._config(options))
        return settings

    def open(self, options: Options, settings: Settings) -> Pair:
        """See `Entry.open`."""
        plain = with_method(settings, "none")
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
        return model_shape(model, model.model.config.text_config, model.tokens_per_frame)

    def stages(self, model: LlavaOnevision, job: Workload) -> dict[str, Work] | None:
        """See `Entry.stages`."""
        return stages(self.shape(model), model.method, job)

    def preprocess(self, options: Options) -> str:
        """See `Entry.preprocess`."""
        return "the checkpoint's processor" if options.pretrained else STAND_IN

    def prompt_tokens(self, model: LlavaOnevision) -> tuple[int, int]:
        """See `Entry.prompt_tokens`."""
        before, behind = (len(model.embed_text(part)) for part in model.prompt_parts(QUESTION))
        return before, behind + (model.prompt == "chat")  # the newline token that ends the video

    def _config(self, options: Options) -> LlavaOnevisionConfig:
        if options.size not in self.sizes:
            raise SettingsError(unknown("size", options.size, self.sizes))
        vision = fewer_layers(self.vision, options.layers)
        text = fewer_layers(self.sizes[options.size], options.llm_layers)
        return LlavaOnevisionConfig(
            vision_config={"model_type": "siglip_vision_model", "vision_use_head": False} | vision,
            text_config={"model_type": "qwen2", "max_position_embeddings": 32768} | text,
            tie_word_embeddings=text["tie_word_embeddings"],
        )


# Public sizes of Qwen2; of SigLIP-so400m, 26 of its 27 layers are in the checkpoints.
QWEN2 = {
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
}
QWEN2_1_5B = {
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "vocab_size": 151936,
}
CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
MODELS: dict[str, Entry] = {
    "llava_ov": LlavaOnevisionEntry(sizes=QWEN2, vision=SO400M),
    "streamforest": StreamForestEntry(text=QWEN2["7b"], vision=SO400M),
    "dispider": DispiderEntry(reaction=QWEN2["7b"], decision=QWEN2_1_5B, vision=CLIP_L),
}
