"""Dispider on the latency card.

`prefill_ms` is the compact model reading clips. The cost of a question (retrieval, and the large model's
prefill of the retrieved clips) is `ttft_ms`; an incomplete last clip is read again for every question.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stc_lmms.bench.entry import QUESTION, Entry, StandInTokenizer, fewer_layers, model_shape
from stc_lmms.bench.options import Options
from stc_lmms.bench.shapes import DecoderShape, ModelShape
from stc_lmms.bench.work import Work, Workload, decoder_work, projector_work, tower_work
from stc_lmms.config import Settings
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.models.checkpoint_io import qwen2_config
from stc_lmms.models.dispider.config import DispiderSpec
from stc_lmms.models.dispider.model import Dispider
from stc_lmms.models.dispider.net import STREAM_CLIPS
from stc_lmms.models.dispider.prompt import reaction_prompt
from stc_lmms.models.dispider.weights import random_networks
from stc_lmms.models.public_sizes import CLIP_L, QWEN2


@dataclass(frozen=True)
class DispiderEntry(Entry):
    """Dispider, which has one public size.

    Attributes:
        decision: config fields of the compact language model.
    """

    decision: dict[str, Any]

    model_class = Dispider
    preprocessing = "as in the original, on the device"

    def config(self, options: Options) -> DispiderSpec:
        folder = Path(f"random weights, {options.size}")
        side = self.vision["image_size"] // self.vision["patch_size"]
        return DispiderSpec(
            folder=folder,
            decision_folder=folder,
            layout="v2",
            reaction=qwen2_config(self.text_fields(options)),
            decision=qwen2_config(fewer_layers(self.decision, options.llm_layers)),
            vision=self.vision_fields(options),
            select_layer=-2,
            tokens_per_frame=(side // 2) ** 2,
            slots_per_frame=1,
        )

    def random_model(self, settings: Settings, config: DispiderSpec) -> Dispider:
        dtype, device = getattr(torch, settings.dtype), torch.device(settings.device)
        networks = random_networks(config, dtype, device, settings.attn_implementation)
        tokenizer = StandInTokenizer()
        return Dispider.from_parts(settings, config, networks, tokenizer, tokenizer)

    def shape(self, model: Any) -> ModelShape:
        """See `Entry.shape`; the decoder is the large one."""
        return model_shape(model, model.spec.reaction, model.spec.tokens_per_frame)

    def prompt_tokens(self, model: Any) -> tuple[int, int]:
        """See `Entry.prompt_tokens`; the whole prompt is prefilled with the question."""
        return 0, sum(len(model.tokenizer(part).input_ids) for part in reaction_prompt(QUESTION))

    def stages(self, model: Any, workload: Workload) -> dict[str, Work] | None:
        cacher = model.method.tower
        if cacher is not None and not isinstance(cacher, STCCacher):
            return None
        shape, spec, length = self.shape(model), model.spec, model.options.frames_per_clip
        size, compact, large = shape.itemsize, DecoderShape.of(spec.decision), shape.decoder
        merged = 4 * shape.tower.width

        def read_clip(frames: int) -> Work:
            row = frames * (spec.tokens_per_frame + spec.slots_per_frame) + 1
            return projector_work(row, merged, compact.width, size) + decoder_work(compact, size, row)

        full, rest = divmod(workload.frames, length)
        clips = [length] * full + [rest] * (rest > 0)
        slots = workload.frames * spec.slots_per_frame
        retrieved = sum(clips[:STREAM_CLIPS])
        visual = retrieved * (spec.tokens_per_frame + spec.slots_per_frame) + len(clips)
        query = sum(map(len, model.words(QUESTION))) + len(model.words(QUESTION).question)
        question = read_clip(rest) if rest else Work()
        question += decoder_work(compact, size, slots + query)
        question += decoder_work(compact, size, slots + len(clips))
        question += projector_work(retrieved * spec.tokens_per_frame, merged, large.width, size)
        question += decoder_work(large, size, visual + workload.question_tokens, head=True)
        return {
            "vit_ms": sum((tower_work(shape, cacher, group) for group in workload.groups), Work()),
            "prefill_ms": sum((read_clip(length) for _ in range(full)), Work()),
            "ttft_ms": question,
            "per_token_ms": decoder_work(large, size, 1, visual + workload.question_tokens, head=True),
        }


ENTRY = DispiderEntry({"7b": QWEN2["7b"]}, CLIP_L, decision=QWEN2["1.5b"])
