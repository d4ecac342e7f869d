"""LLaVA-OneVision on the latency card."""

from typing import Any

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from stc_lmms import compat
from stc_lmms.bench.entry import QUESTION, Entry, StandInProcessor, model_shape
from stc_lmms.bench.options import Options
from stc_lmms.bench.shapes import ModelShape
from stc_lmms.config import Settings
from stc_lmms.models.llava_onevision.config import check_fit
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.models.public_sizes import LLAVA_ONEVISION, SO400M


class LlavaOnevisionEntry(Entry):
    """LLaVA-OneVision in its public sizes."""

    model_class = LlavaOnevision
    preprocessing = "resized and normalised on the device (no checkpoint, so not its processor)"

    def config(self, options: Options) -> LlavaOnevisionConfig:
        """See `Entry.config`."""
        vision, text = self.vision_fields(options), self.text_fields(options)
        return LlavaOnevisionConfig(
            vision_config={"model_type": "siglip_vision_model", "vision_use_head": False} | vision,
            text_config={"model_type": "qwen2", "max_position_embeddings": 32768} | text,
            tie_word_embeddings=text["tie_word_embeddings"],
        )

    def check_fit(self, settings: Settings, config: LlavaOnevisionConfig) -> None:
        """See `Entry.check_fit`."""
        check_fit(settings, config)

    def random_model(self, settings: Settings, config: LlavaOnevisionConfig) -> LlavaOnevision:
        """See `Entry.random_model`."""
        device = torch.device(settings.device)
        weights = compat.random_weights(
            LlavaOnevisionForConditionalGeneration,
            config,
            dtype=getattr(torch, settings.dtype),
            device=device,
            attn_implementation=settings.attn_implementation,
        )
        processor = StandInProcessor(config.vision_config.image_size, device)
        return LlavaOnevision.from_parts(settings, weights, processor)

    def shape(self, model: Any) -> ModelShape:
        """See `Entry.shape`."""
        return model_shape(model, model.model.config.text_config, model.tokens_per_frame)

    def preprocess(self, options: Options) -> str:
        """See `Entry.preprocess`."""
        return "the checkpoint's processor" if options.pretrained else self.preprocessing

    def prompt_tokens(self, model: Any) -> tuple[int, int]:
        """See `Entry.prompt_tokens`."""
        before, after = (len(model.embed_text(part)) for part in model.prompt_parts(QUESTION))
        return before, after + (model.options.prompt == "chat")  # the newline token that ends the video


ENTRY = LlavaOnevisionEntry(LLAVA_ONEVISION, SO400M)
