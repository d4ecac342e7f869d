"""What all models of this package share: loading, other settings on the same weights, description.

A model's own class adds its networks, tokenizer and prompt; its stream is a `ModelStream`
(`engine/stream.py`).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stc_lmms import compat
from stc_lmms.compat_llm import LanguageModel
from stc_lmms.config import Settings
from stc_lmms.engine.api import Stream, StreamingModel, checkpoint, open_device
from stc_lmms.engine.graphs import UNKNOWN_ROLE, CudaCapture
from stc_lmms.engine.timers import environment
from stc_lmms.ops.attention import kernel
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import Tower


class LoadedModel(StreamingModel):
    """Base of the models: `check`, `load`, `check_fit` and `assemble` are theirs.

    Args:
        settings: validated model arguments; `pretrained` is a local folder or a hub id.

    Attributes:
        parts: what `load` returned; shared with other models on the same weights, never changed.
        options: the model's own arguments.
        method: the compression method.
        memory: opens the stream's memory; None if the model has one of its own.
        tower, llm, tokenizer, eos_ids, context_limit: set by `assemble`.
        capture: records single frames as CUDA graphs, or says why not.
    """

    stream_class: ClassVar[type[Stream]]
    graph_unit: ClassVar[str] = "frames"  # what one captured graph encodes, in `describe`

    tower: Tower
    llm: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    eos_ids: frozenset[int]
    context_limit: int

    def __init__(self, settings: Settings):
        self.check(settings)
        device = open_device(settings.device)
        self._set_up(settings, self.load(settings, weights_dtype(settings.dtype, device), device))

    @classmethod
    def load(cls, settings: Settings, dtype: str | torch.dtype, device: torch.device) -> tuple[Any, ...]:
        """Read the checkpoint; returns what `from_parts` takes.

        Args:
            settings: checked already.
            dtype: of the weights; `auto` is the checkpoint's own.
            device: where the networks go.

        Raises:
            CheckpointError: a file is missing, damaged or of another model.
        """
        raise NotImplementedError

    @staticmethod
    def check_fit(settings: Settings, config: Any) -> None:
        """Refuse a method, memory or option that does not fit a model.

        Args:
            settings: to check.
            config: the first of the parts, or its `config` if it has one.

        Raises:
            SettingsError: names what does not fit, and what would.
        """
        raise NotImplementedError

    def assemble(self, *parts: Any) -> None:
        """Set the attributes named above, and the model's own."""
        raise NotImplementedError

    def eager_reason(self) -> str:
        """Why no frame of this model can be a captured graph, if that is known before the first."""
        return ""

    def project(self, features_FTD: Tensor) -> Tensor:
        """Tower features [F,T,D] to the tokens [F,N,E] that a stream takes in; by default, no change."""
        return features_FTD

    @classmethod
    def from_parts(cls, settings: Settings, *parts: Any) -> Self:
        """A model around networks that are loaded already, in eval mode on their device.

        Args:
            settings: what concerns loading (`pretrained`, `revision`, `dtype`, `device`,
                `attn_implementation`) is not applied but echoed in results, so it must be true.
            parts: as `load` returns them.

        Raises:
            SettingsError: see `check_fit`.
        """
        cls.check_fit(settings, getattr(parts[0], "config", parts[0]))
        self = cls.__new__(cls)
        self._set_up(settings, parts)
        return self

    def with_settings(self, settings: Settings) -> Self:
        """See `StreamingModel.with_settings`."""
        return self.from_parts(settings, *self.parts)

    def _set_up(self, settings: Settings, parts: tuple[Any, ...]) -> None:
        self.settings, self.parts = settings, parts
        self.options = settings.built_model_options
        self.method, self.memory = settings.built_method, settings.built_memory
        self.assemble(*parts)
        self.device, self.dtype = self.llm.device, self.llm.dtype
        self.capture = CudaCapture(self.device, settings.cuda_graphs)
        # A reason that is known before any frame is set here: `describe` must not report a graph.
        tower = self.method.tower
        unknown = tower is not None and tower.role(tower.open_state()) is None
        self.capture.reason = self.capture.reason or self.eager_reason() or (UNKNOWN_ROLE if unknown else "")

    def open_stream(self) -> Any:
        """A new, empty stream."""
        return self.stream_class(self)

    def describe(self) -> dict[str, Any]:
        """See `StreamingModel.describe`."""
        reason = self.capture.reason
        about = {
            "execution": "batched" if self.method.tower is None else "grouped",
            "launch": "eager" if reason else f"graph for single {self.graph_unit}",
            "launch_reason": reason,
            "attention": f"tower sdpa, llm {self.settings.attn_implementation}",
        }
        if self.memory is not None:
            own = self.memory.runs_attention
            about["memory_attention"] = kernel(self.device.type, self.dtype)[1] if own else None
        return about | {
            "dtype": str(self.dtype).removeprefix("torch."),
            "context_limit": self.context_limit,
            "environment": environment(self.device),
        }

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of prompt, without added special tokens."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Embeddings [L,D] of L token ids."""
        return self.llm.embed(to_device(ids, self.device, torch.long))

    def embed_text(self, text: str) -> Tensor:
        """Embeddings [L,D] of a piece of prompt, without added special tokens."""
        return self.embed(self.ids(text))

    def decode_text(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def load_stock(
    model_class: type[PreTrainedModel], settings: Settings, dtype: str | torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, Any]:
    """A checkpoint in the layout of transformers: the stock model in eval mode, and its processor.

    Raises:
        CheckpointError: a file is missing, damaged or of another model.
    """
    name, revision = checkpoint(settings), settings.revision
    processor = compat.load_processor(name, revision)
    attention = settings.attn_implementation
    weights = compat.load_weights(
        model_class, name, dtype=dtype, attn_implementation=attention, revision=revision
    )
    return weights.to(device), processor


def weights_dtype(name: str, device: torch.device) -> str | torch.dtype:
    """The dtype that the argument `dtype` means: `auto` is the checkpoint's own, but float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else name
    return getattr(torch, name)


def move(networks: Any, device: torch.device) -> Any:
    """A dataclass of modules, all of them moved to a device."""
    for part in vars(networks).values():
        if isinstance(part, nn.Module):
            part.to(device)
    return networks
