"""LLaVA-OneVision on the latency card."""

from typing import Any

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from stc_lmms import compat
from stc_lmms.bench.entry import QUESTION, Entry, StandInProcessor, model_shape
from stc_lmms.bench.options import Options
from stc_lmms.bench.shapes import ModelShape
from stc_lmms.config import Settings
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.models.public_sizes import LLAVA_ONEVISION, SO400M


class LlavaOnevisionEntry(Entry):
    """LLaVA-OneVision in its public sizes."""

    model_class = LlavaOnevision
    preprocessing = "resized and normalised on the device (no checkpoint, so not its processor)"

    def config(self, options: Options) -> LlavaOnevisionConfig:
        vision, text = self.vision_fields(options), self.text_fields(options)
        return LlavaOnevisionConfig(
            vision_config={"model_type": "siglip_vision_model", "vision_use_head": False} | vision,
            text_config={"model_type": "qwen2", "max_position_embeddings": 32768} | text,
            tie_word_embeddings=text["tie_word_embeddings"],
        )

    def random_model(self, settings: Settings, config: LlavaOnevisionConfig) -> LlavaOnevision:
        dtype, device = getattr(torch, settings.dtype), torch.device(settings.device)
        stock = LlavaOnevisionForConditionalGeneration
        weights = compat.random_weights(stock, config, dtype, device, settings.attn_implementation)
        processor = StandInProcessor(config.vision_config.image_size, device)
        return LlavaOnevision.from_parts(settings, weights, processor)

    def shape(self, model: Any) -> ModelShape:
        return model_shape(model, model.model.config.text_config, model.tokens_per_frame)

    def preprocess(self, options: Options) -> str:
        return "the checkpoint's processor" if options.pretrained else self.preprocessing

    def prompt_tokens(self, model: Any) -> tuple[int, int]:
        before, after = (len(model.embed_text(part)) for part in model.prompt_parts(QUESTION))
        return before, after + (model.options.prompt == "chat")  # the newline token that ends the video


ENTRY = LlavaOnevisionEntry(LLAVA_ONEVISION, SO400M)
