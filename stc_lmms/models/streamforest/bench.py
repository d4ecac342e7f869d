"""StreamForest on the latency card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2ForCausalLM, SiglipVisionModel

from stc_lmms import compat
from stc_lmms.bench.entry import (
    QUESTION,
    Pair,
    StandInTokenizer,
    fewer_layers,
    method_settings,
    model_shape,
)
from stc_lmms.bench.options import Options
from stc_lmms.bench.work import ModelShape, Work, Workload, stages
from stc_lmms.config import Settings
from stc_lmms.errors import SettingsError
from stc_lmms.models.streamforest import config as streamforest_config
from stc_lmms.models.streamforest.config import StreamForestSpec
from stc_lmms.models.streamforest.model import Networks, StreamForest
from stc_lmms.models.streamforest.prompt import PREFIX, suffix, time_sentence
from stc_lmms.settings import with_method
from stc_lmms.suggest import unknown


@dataclass(frozen=True)
class StreamForestEntry:
    """StreamForest, whose language model has one public size.

    It prefills when it is asked, so its `observe_ms` holds no prefill, and its `ttft_ms` does.
    """

    text: dict[str, Any]
    vision: dict[str, Any]

    def check(self, options: Options) -> Settings:
        """See `Entry.check`."""
        settings = method_settings(options)
        if options.pretrained is not None:
            StreamForest.check(settings)
        else:
            streamforest_config.check_fit(settings, self._spec(options))
        return settings

    def open(self, options: Options, settings: Settings) -> Pair:
        """See `Entry.open`."""
        plain = with_method(settings, "none")
        if options.pretrained is not None:
            model = StreamForest(settings)
        else:
            spec, device = self._spec(options), torch.device(settings.device)
            made = {"dtype": getattr(torch, settings.dtype), "device": device}
            attention = settings.attn_implementation
            with torch.device(device):
                projector = streamforest_config.make_projector(spec).to(made["dtype"]).eval()
            networks = Networks(
                compat.random_weights(SiglipVisionModel, spec.vision, **made, attn_implementation="sdpa"),
                projector,
                compat.random_weights(Qwen2ForCausalLM, spec.text, **made, attn_implementation=attention),
            )
            model = StreamForest.from_parts(settings, spec, networks, StandInTokenizer())
        dense = model.with_settings(plain)
        for each in (dense, model):
            each.eos_ids = frozenset()  # every answer has the same length, whatever the weights say
        return Pair(dense, model)

    def shape(self, model: StreamForest) -> ModelShape:
        """See `Entry.shape`; the tokens are those of the newest frame."""
        return model_shape(model, model.spec.text, model.options.now_tokens)

    def prompt_tokens(self, model: StreamForest) -> tuple[int, int]:
        """See `Entry.prompt_tokens`."""
        sentence = time_sentence("short_online_v2", [0.0])
        before, behind = (len(model.embed_text(part)) for part in (PREFIX, suffix(QUESTION, sentence)))
        return before, behind

    def stages(self, model: StreamForest, job: Workload) -> dict[str, Work] | None:
        """See `Entry.stages`: of the tower alone, for what is prefilled depends on the frames."""
        known = stages(self.shape(model), model.method, job)
        return None if known is None else {"vit_ms": known["vit_ms"]}

    def preprocess(self, options: Options) -> str:
        """See `Entry.preprocess`."""
        return "Pillow, as in the original"

    def _spec(self, options: Options) -> StreamForestSpec:
        if options.size != "7b":
            raise SettingsError(unknown("size", options.size, ("7b",)))
        fields = fewer_layers(self.text, options.llm_layers) | {
            "vision_config": fewer_layers(self.vision, options.layers)
        }
        return StreamForestSpec.of(Path("random weights"), fields)
