"""All streaming models by name; `docs/extending.md` shows how to add one.

Importing this module imports neither torch nor transformers: lmms-eval's plug-in hook reads it.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stc_lmms.errors import SettingsError
from stc_lmms.suggest import unknown

SUFFIX = "_stc"  # of a harness id; lmms-eval already has models called llava_onevision and so on


@dataclass(frozen=True)
class Model:
    """Properties of a model that are known without importing it.

    Attributes:
        name: as in `stc-lmms stream --model NAME`.
        path: dotted path of its `StreamingModel` class.
        pretrained: default checkpoint, a hub id.
        options: dotted path of the frozen dataclass of its own arguments; "" if it has none.
        defaults: defaults of common and method arguments that differ from those of `Settings`.
        own_memory: name of the memory that is part of the model; "" if every memory works.
        demo: whether `pretrained=demo` is a checkpoint of this model.
        bench: dotted path of what `stc-lmms bench` measures it with; "" if it has no latency card.
    """

    name: str
    summary: str
    path: str
    pretrained: str
    options: str = ""
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    own_memory: str = ""
    demo: bool = False
    bench: str = ""

    @property
    def harness_id(self) -> str:
        """What `--model` of lmms-eval and `stc-vlmeval` takes."""
        return self.name + SUFFIX

    @property
    def harness_class(self) -> str:
        """Dotted path of its lmms-eval class: `my_model` has `MyModelStc`."""
        words = "".join(word.capitalize() for word in self.harness_id.split("_"))
        return f"stc_lmms.eval.lmms_eval.{words}"

    def load_class(self) -> Any:
        """Its `StreamingModel`; imports torch."""
        return _imported(self.path)

    def load_options(self) -> type | None:
        """The dataclass of its own arguments; None if it has none."""
        return _imported(self.options) if self.options else None

    def load_bench(self) -> Any:
        """What `stc-lmms bench` measures it with, or None; imports torch."""
        return _imported(self.bench) if self.bench else None

    @property
    def option_fields(self) -> dict[str, dataclasses.Field]:
        """Its own arguments by name."""
        options = self.load_options()
        return {} if options is None else {f.name: f for f in dataclasses.fields(options)}


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# As Qwen's own processors sample; one temporal slice of the tower is then one second.
_TWO_FRAMES_A_SECOND = MappingProxyType({"fps": 2.0})
_MODELS = (
    Model(
        "llava_ov",
        "LLaVA-OneVision (SigLIP and Qwen2)",
        "stc_lmms.models.llava_onevision.model.LlavaOnevision",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        options="stc_lmms.models.llava_onevision.options.LlavaOnevisionOptions",
        demo=True,
        bench="stc_lmms.models.llava_onevision.bench.ENTRY",
    ),
    Model(
        "dispider",
        "Dispider (CLIP-L, Qwen2-1.5B that watches, Qwen2-7B that answers); proactive",
        "stc_lmms.models.dispider.model.Dispider",
        "Mar2Ding/Dispider",
        options="stc_lmms.models.dispider.options.DispiderOptions",
        defaults=MappingProxyType({"fps": 1.0, "method": "stc_cacher"}),
        own_memory="clips",
        bench="stc_lmms.models.dispider.bench.ENTRY",
    ),
    Model(
        "streamforest",
        "StreamForest (SigLIP, an event memory of tower tokens, Qwen2)",
        "stc_lmms.models.streamforest.model.StreamForest",
        "MCG-NJU/StreamForest-Qwen2-7B",
        options="stc_lmms.models.streamforest.options.StreamForestOptions",
        defaults=MappingProxyType({"method": "stc_cacher"}),
        own_memory="forest",
        bench="stc_lmms.models.streamforest.bench.ENTRY",
    ),
    Model(
        "livecc",
        "LiveCC (Qwen2-VL); comments on a video while it plays",
        "stc_lmms.models.livecc.model.LiveCC",
        "chenjoya/LiveCC-7B-Instruct",
        options="stc_lmms.models.livecc.options.LiveCCOptions",
        defaults=_TWO_FRAMES_A_SECOND,
        bench="stc_lmms.models.livecc.bench.ENTRY",
    ),
    *(
        Model(
            name,
            summary,
            f"stc_lmms.models.qwen_vl.model.{cls}",
            pretrained,
            options="stc_lmms.models.qwen_vl.options.QwenVLOptions",
            defaults=_TWO_FRAMES_A_SECOND,
            bench="stc_lmms.models.qwen_vl.bench.ENTRY" if name == "qwen2_vl" else "",
        )
        for name, summary, cls, pretrained in (
            ("qwen2_vl", "Qwen2-VL", "Qwen2VL", "Qwen/Qwen2-VL-7B-Instruct"),
            ("qwen2_5_vl", "Qwen2.5-VL", "Qwen2_5VL", "Qwen/Qwen2.5-VL-7B-Instruct"),
            ("qwen3_vl", "Qwen3-VL; needs transformers 4.57", "Qwen3VL", "Qwen/Qwen3-VL-8B-Instruct"),
        )
    ),
)
MODELS: dict[str, Model] = {model.name: model for model in _MODELS}


def model(name: str) -> Model:
    """The model called `name`, a short name or a harness id.

    Raises:
        SettingsError: there is none; names the nearest.
    """
    short = name.removesuffix(SUFFIX)
    if short not in MODELS:
        raise SettingsError(unknown("model", name, MODELS))
    return MODELS[short]
