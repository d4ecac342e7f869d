"""How a model is put on the latency card, and stand-ins for what only a checkpoint provides.

`models/<name>/bench.py` holds the `ENTRY` of a model: an `Entry` is measured, a `StaticCard` is computed from
shapes alone.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.bench.options import PROTOCOLS, Options
from stc_lmms.bench.shapes import DecoderShape, ModelShape, TowerShape
from stc_lmms.bench.work import Work, Workload, stages
from stc_lmms.config import Settings
from stc_lmms.engine.api import StreamingModel, open_device
from stc_lmms.engine.model import LoadedModel
from stc_lmms.errors import SettingsError
from stc_lmms.models.registry import MODELS
from stc_lmms.ops.transfer import to_device
from stc_lmms.settings import resolve, with_method
from stc_lmms.suggest import unknown

QUESTION = "What is the person in the middle of the picture doing right now, and with what?"


class Pair(NamedTuple):
    """A dense model and the same one with a method, on shared weights."""

    dense: StreamingModel
    method: StreamingModel


class StaticCard(ABC):
    """A model whose card is computed from shapes alone."""

    @abstractmethod
    def run(self, options: Options, say: Callable[[str], None] = print) -> dict[str, Any]:
        """Print the card; returns what its last line holds."""


@dataclass(frozen=True)
class Entry(ABC):
    """A model that is measured, with weights of a checkpoint or random ones (their values cost no time)."""

    sizes: Mapping[str, dict[str, Any]]  # config fields of the language model, by size
    vision: dict[str, Any]  # config fields of the vision tower

    model_class: ClassVar[type[LoadedModel]]
    preprocessing: ClassVar[str]  # how frames become pixel values, in words

    @abstractmethod
    def config(self, options: Options) -> Any:
        """Config of the random model."""

    @abstractmethod
    def random_model(self, settings: Settings, config: Any) -> StreamingModel:
        """A model with random weights."""

    @abstractmethod
    def shape(self, model: Any) -> ModelShape:
        """Shapes for the cost model."""

    @abstractmethod
    def prompt_tokens(self, model: Any) -> tuple[int, int]:
        """Tokens before and after the video when `QUESTION` is asked."""

    def stages(self, model: Any, workload: Workload) -> dict[str, Work] | None:
        """Work of every stage that has a cost model; None if the model's method has none."""
        return stages(self.shape(model), model.method, workload)

    def preprocess(self, options: Options) -> str:
        """How frames become pixel values, in words."""
        return self.preprocessing

    def check(self, options: Options) -> Settings:
        """Settings of the method, checked against the model's config; loads no weights.

        Raises:
            SettingsError: an option or a setting does not fit the model.
        """
        settings = method_settings(options)
        if options.pretrained is not None:
            self.model_class.check(settings)
        else:
            self.model_class.check_fit(settings, self.config(options))
        return settings

    def open(self, options: Options, settings: Settings) -> Pair:
        """Load or make the weights once, and open the dense and the compressed model around them."""
        random = options.pretrained is None
        model = self.random_model(settings, self.config(options)) if random else self.model_class(settings)
        pair = Pair(model.with_settings(with_method(settings, "none")), model)
        for opened in pair:
            opened.eos_ids = frozenset()  # so that every answer has the same length
        return pair

    def text_fields(self, options: Options) -> dict[str, Any]:
        """Config fields of the language model of the chosen size and depth."""
        if options.size not in self.sizes:
            raise SettingsError(unknown("size", options.size, self.sizes))
        return fewer_layers(self.sizes[options.size], options.llm_layers)

    def vision_fields(self, options: Options) -> dict[str, Any]:
        """Config fields of the vision tower of the chosen depth."""
        return fewer_layers(self.vision, options.layers)


def find_entry(name: str) -> Entry | StaticCard:
    """The `ENTRY` of the model called `name`."""
    found = MODELS[name].load_bench()
    if found is None:
        valid = ", ".join(sorted(model.name for model in MODELS.values() if model.bench))
        raise SettingsError(f"model {name!r} has no latency card yet (valid: {valid})")
    return found


class StandInTokenizer:
    """One token per word or punctuation mark: enough to measure the cost of a prompt."""

    eos_token_id = None

    def __call__(self, text: str, **_: Any) -> "StandInTokenizer":
        """Ids 1, 2, 3, ... in `input_ids`."""
        result = StandInTokenizer()
        result.input_ids = list(range(1, len(re.findall(r"\w+|[^\w\s]", text)) + 1))
        return result

    def convert_tokens_to_ids(self, token: str) -> None:
        """No special token is known."""

    def decode(self, ids: list[int], **_: Any) -> str:
        """The ids as numbers."""
        return " ".join(map(str, ids))


class StandInProcessor:
    """Stands in for a checkpoint's processor: `side` x `side` pixels in [-1, 1], resized on `device`."""

    chat_template = None

    def __init__(self, side: int, device: torch.device):
        self.side, self.device = side, device
        self.tokenizer = StandInTokenizer()

    def video_processor(self, videos: list[Tensor], **_: Any) -> dict[str, list[Tensor]]:
        """Frames uint8 [F,3,H,W] to pixel values float32 [F,3,side,side]."""
        bicubic = {"size": (self.side, self.side), "mode": "bicubic", "antialias": True}
        pixels = [
            functional.interpolate(to_device(video, self.device).float(), **bicubic) for video in videos
        ]
        return {"pixel_values_videos": [x.clamp_(0, 255).div_(127.5).sub_(1) for x in pixels]}


def method_settings(options: Options) -> Settings:
    """Settings of the method, resolved but not checked against a model."""
    device = open_device(options.device)
    args = options.method_args | {"method": options.method, "device": str(device)}
    protocol = PROTOCOLS[options.protocol]
    args |= {"prefill_frames": str(protocol.prefill_frames), "cuda_graphs": str(protocol.cuda_graphs)}
    if options.pretrained is not None:
        args |= {"pretrained": options.pretrained, "dtype": options.dtype}
    else:
        automatic = "bfloat16" if device.type == "cuda" else "float32"
        args["dtype"] = automatic if options.dtype == "auto" else options.dtype
        args["pretrained"] = f"random weights, {options.size}"
    return resolve(args, model=options.model)


def fewer_layers(fields: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """Config fields of a network cut to `layers` layers; None keeps all."""
    if layers is not None and layers > fields["num_hidden_layers"]:
        raise SettingsError(f"{layers} layers are more than the {fields['num_hidden_layers']} of the model")
    return fields | {"num_hidden_layers": layers or fields["num_hidden_layers"]}


def model_shape(model: Any, text_config: Any, tokens_per_frame: int) -> ModelShape:
    """Shapes of a loaded model with an image tower and a decoder whose config has the fields of Qwen2."""
    tower = TowerShape.of(model.tower.config, len(model.tower.blocks), model.tower.num_tokens)
    return ModelShape(tower, DecoderShape.of(text_config), tokens_per_frame, model.dtype.itemsize)
