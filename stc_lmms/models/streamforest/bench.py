"""StreamForest on the latency card."""

from pathlib import Path
from typing import Any

import torch

from stc_lmms.bench.entry import QUESTION, Entry, StandInTokenizer, model_shape
from stc_lmms.bench.options import Options
from stc_lmms.bench.shapes import ModelShape
from stc_lmms.bench.work import Work, Workload
from stc_lmms.config import Settings
from stc_lmms.models.public_sizes import QWEN2, SO400M
from stc_lmms.models.streamforest.config import StreamForestSpec
from stc_lmms.models.streamforest.model import StreamForest
from stc_lmms.models.streamforest.prompt import PREFIX, suffix, time_sentence
from stc_lmms.models.streamforest.weights import random_networks


class StreamForestEntry(Entry):
    """StreamForest, whose language model has one public size.

    It prefills when a question is asked, so prefill counts in `ttft_ms` and not in `observe_ms`.
    """

    model_class = StreamForest
    preprocessing = "Pillow, as in the original"

    def config(self, options: Options) -> StreamForestSpec:
        fields = self.text_fields(options) | {"vision_config": self.vision_fields(options)}
        return StreamForestSpec.of(Path("random weights"), fields)

    def random_model(self, settings: Settings, config: StreamForestSpec) -> StreamForest:
        dtype, device = getattr(torch, settings.dtype), torch.device(settings.device)
        networks = random_networks(config, dtype, device, settings.attn_implementation)
        return StreamForest.from_parts(settings, config, networks, StandInTokenizer())

    def shape(self, model: Any) -> ModelShape:
        """See `Entry.shape`; tokens per frame are those of the newest frame."""
        return model_shape(model, model.spec.text, model.options.now_tokens)

    def prompt_tokens(self, model: Any) -> tuple[int, int]:
        sentence = time_sentence("short_online_v2", [0.0])
        before, after = (len(model.embed_text(part)) for part in (PREFIX, suffix(QUESTION, sentence)))
        return before, after

    def stages(self, model: Any, workload: Workload) -> dict[str, Work] | None:
        """See `Entry.stages`; the tower alone, because the prefill depends on the frames' content."""
        work = super().stages(model, workload)
        return None if work is None else {"vit_ms": work["vit_ms"]}


ENTRY = StreamForestEntry({"7b": QWEN2["7b"]}, SO400M)
