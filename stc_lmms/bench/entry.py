"""What a model gives the latency card, and stand-ins for what only a checkpoint has."""

import re
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.bench.cost import DecoderShape, TowerShape
from stc_lmms.bench.options import Options
from stc_lmms.bench.work import ModelShape, Work, Workload
from stc_lmms.config import Settings
from stc_lmms.engine.api import StreamingModel, open_device
from stc_lmms.errors import SettingsError
from stc_lmms.ops.transfer import to_device
from stc_lmms.settings import resolve

QUESTION = "What is the person in the middle of the picture doing right now, and with what?"
STAND_IN = "resized and normalised on the device (no checkpoint, so not its processor)"


class Pair(NamedTuple):
    """A dense model and the same one with a method, on shared weights."""

    dense: StreamingModel
    method: StreamingModel


class Entry(Protocol):
    """One model of the card."""

    def check(self, options: Options) -> Settings:
        """Settings of the method, checked against the model's config; loads no weights."""

    def open(self, options: Options, settings: Settings) -> Pair:
        """Load or make the weights once, and open both models around them."""

    def shape(self, model: StreamingModel) -> ModelShape:
        """Shapes for the cost model."""

    def prompt_tokens(self, model: StreamingModel) -> tuple[int, int]:
        """Tokens before and behind the video when `QUESTION` is asked."""

    def preprocess(self, options: Options) -> str:
        """How frames become pixel values, in words."""

    def stages(self, model: StreamingModel, job: Workload) -> dict[str, Work] | None:
        """Work of every stage that has a cost model; None if the model's method has none."""


class StandInTokenizer:
    """One token for each word or other sign: enough for the cost of a prompt, which is all it is for."""

    eos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = False) -> "StandInTokenizer":
        """Ids 1, 2, 3, ... in `input_ids`."""
        found = StandInTokenizer()
        found.input_ids = list(range(1, 1 + len(re.findall(r"\w+|[^\w\s]", text))))
        return found

    def convert_tokens_to_ids(self, token: str) -> None:
        """It knows no special token."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The ids as numbers."""
        return " ".join(map(str, ids))


class StandInProcessor:
    """What `LlavaOnevision` needs of a processor when there is no checkpoint to take it from.

    Frames become `side` x `side` pixel values in [-1, 1], resized (bicubic) on `device`.
    """

    chat_template = None

    def __init__(self, side: int, device: torch.device):
        self.side, self.device = side, device
        self.tokenizer = StandInTokenizer()

    def video_processor(self, videos: list[Tensor], **_: Any) -> dict[str, list[Tensor]]:
        """Frames uint8 [F,3,H,W] to pixel values float32 [F,3,side,side]."""
        size = (self.side, self.side)
        pixels = [
            functional.interpolate(
                to_device(video, self.device).float(),
                size=size,
                mode="bicubic",
                antialias=True,
                align_corners=False,
            )
            for video in videos
        ]
        return {"pixel_values_videos": [x.clamp_(0, 255).div_(127.5).sub_(1) for x in pixels]}


def method_settings(options: Options) -> Settings:
    """Settings of the method, resolved but not checked against a model."""
    device = open_device(options.device)
    args = options.method_args | {"method": options.method, "device": str(device)}
    args["prefill_frames"] = str(options.execution.prefill_frames)
    args["cuda_graphs"] = str(options.execution.cuda_graphs)
    if options.pretrained is not None:
        args |= {"pretrained": options.pretrained, "dtype": options.dtype}
    else:
        automatic = "bfloat16" if device.type == "cuda" else "float32"
        args["dtype"] = automatic if options.dtype == "auto" else options.dtype
        args["pretrained"] = f"random weights, {options.size}"
    return resolve(args, model=options.model)


def fewer_layers(part: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """Fields of a network with so many of its layers; None: all."""
    if layers is not None and layers > part["num_hidden_layers"]:
        raise SettingsError(f"{layers} layers are more than the {part['num_hidden_layers']} of the model")
    return part | {"num_hidden_layers": layers or part["num_hidden_layers"]}


def decoder_shape(config: Any) -> DecoderShape:
    """Shape of a decoder whose config has the fields of Qwen2."""
    heads = config.num_attention_heads
    return DecoderShape(
        config.num_hidden_layers,
        config.hidden_size,
        heads,
        config.num_key_value_heads,
        config.hidden_size // heads,
        config.intermediate_size,
        config.vocab_size,
    )


def model_shape(model: Any, text: Any, tokens_per_frame: int) -> ModelShape:
    """Shapes of a model whose tower is an image tower and whose decoder has the fields of Qwen2."""
    vision = model.tower.config
    tower = TowerShape(
        len(model.tower.blocks),
        model.tower.num_tokens,
        vision.hidden_size,
        vision.intermediate_size,
        vision.patch_size,
    )
    return ModelShape(tower, decoder_shape(text), tokens_per_frame, model.dtype.itemsize)
