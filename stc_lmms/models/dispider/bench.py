"""Dispider on the latency card.

`prefill_ms` is the compact model reading clips. What a question costs, retrieval and the large model's
prefill of the clips found, is `ttft_ms`; a clip that is not full when it comes is read again for it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stc_lmms.bench.entry import (
    QUESTION,
    Pair,
    StandInTokenizer,
    decoder_shape,
    fewer_layers,
    method_settings,
    model_shape,
)
from stc_lmms.bench.options import Options
from stc_lmms.bench.work import ModelShape, Work, Workload, decoder_work, projector_work, tower_work
from stc_lmms.config import Settings
from stc_lmms.errors import SettingsError
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.models.checkpoint_io import qwen2_config
from stc_lmms.models.dispider.config import DispiderSpec, check_fit, check_settings
from stc_lmms.models.dispider.model import Dispider
from stc_lmms.models.dispider.net import STREAM_CLIPS
from stc_lmms.models.dispider.prompt import reaction_prompt
from stc_lmms.models.dispider.weights import random_networks
from stc_lmms.settings import with_method
from stc_lmms.suggest import unknown


@dataclass(frozen=True)
class DispiderEntry:
    """Dispider, which has one public size."""

    reaction: dict[str, Any]
    decision: dict[str, Any]
    vision: dict[str, Any]

    def check(self, options: Options) -> Settings:
        """See `Entry.check`."""
        settings = method_settings(options)
        if options.pretrained is not None:
            check_settings(settings)
        else:
            check_fit(settings, self._spec(options))
        return settings

    def open(self, options: Options, settings: Settings) -> Pair:
        """See `Entry.open`."""
        if options.pretrained is not None:
            model = Dispider(settings)
        else:
            spec, device = self._spec(options), torch.device(settings.device)
            dtype = getattr(torch, settings.dtype)
            networks = random_networks(spec, dtype, device, settings.attn_implementation)
            words = StandInTokenizer()
            model = Dispider.from_parts(settings, spec, networks, words, words)
        pair = Pair(model.with_settings(with_method(settings, "none")), model)
        for each in pair:
            each.eos_ids = frozenset()  # every answer has the same length, whatever the weights say
        return pair

    def shape(self, model: Dispider) -> ModelShape:
        """See `Entry.shape`; the decoder is the large one."""
        return model_shape(model, model.spec.reaction, model.spec.tokens_per_frame)

    def preprocess(self, options: Options) -> str:
        """See `Entry.preprocess`."""
        return "as in the original, on the device"

    def prompt_tokens(self, model: Dispider) -> tuple[int, int]:
        """See `Entry.prompt_tokens`; all of it is prefilled with the question."""
        return 0, sum(len(model.tokenizer(part).input_ids) for part in reaction_prompt(QUESTION))

    def stages(self, model: Dispider, job: Workload) -> dict[str, Work] | None:
        """See `Entry.stages`."""
        cacher = model.method.tower
        if cacher is not None and not isinstance(cacher, STCCacher):
            return None
        shape, spec, length = self.shape(model), model.spec, model.options.frames_per_clip
        size, compact, large = shape.itemsize, decoder_shape(spec.decision), shape.decoder
        merged = 4 * shape.tower.width

        def perceive(frames: int) -> Work:
            row = frames * (spec.tokens_per_frame + spec.slots_per_frame) + 1
            return projector_work(row, merged, compact.width, size) + decoder_work(compact, size, row)

        full, rest = divmod(job.frames, length)
        clips = [length] * full + [rest] * (rest > 0)
        slots = job.frames * spec.slots_per_frame
        kept = sum(clips[:STREAM_CLIPS])
        visual = kept * (spec.tokens_per_frame + spec.slots_per_frame) + len(clips)
        asked = sum(map(len, model.words(QUESTION))) + len(model.words(QUESTION).question)
        question = perceive(rest) if rest else Work()
        question += decoder_work(compact, size, slots + asked)
        question += decoder_work(compact, size, slots + len(clips))
        question += projector_work(kept * spec.tokens_per_frame, merged, large.width, size)
        question += decoder_work(large, size, visual + job.question_tokens, head=True)
        return {
            "vit_ms": sum((tower_work(shape, cacher, group) for group in job.groups), Work()),
            "prefill_ms": sum((perceive(length) for _ in range(full)), Work()),
            "ttft_ms": question,
            "per_token_ms": decoder_work(large, size, 1, visual + job.question_tokens, head=True),
        }

    def _spec(self, options: Options) -> DispiderSpec:
        if options.size != "7b":
            raise SettingsError(unknown("size", options.size, ("7b",)))
        nowhere = Path(f"random weights, {options.size}")
        side = self.vision["image_size"] // self.vision["patch_size"]
        return DispiderSpec(
            folder=nowhere,
            decision_folder=nowhere,
            layout="v2",
            reaction=qwen2_config(fewer_layers(self.reaction, options.llm_layers)),
            decision=qwen2_config(fewer_layers(self.decision, options.llm_layers)),
            vision=fewer_layers(self.vision, options.layers),
            select_layer=-2,
            tokens_per_frame=(side // 2) ** 2,
            slots_per_frame=1,
        )
