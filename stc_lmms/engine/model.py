"""What all models of this package share: loading, other settings on the same weights, description."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
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
    """Base of the models, whose streams are `ModelStream`s (`engine/stream.py`).

    `parts`, as `load` returned them, are shared with other models on the same weights and never changed.
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
        device, dtype = open_device(settings.device), settings.dtype
        if dtype != "auto" or device.type == "cpu":  # on a CPU, `auto` is not the checkpoint's dtype
            dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        self._set_up(settings, self.load(settings, dtype, device))

    @classmethod
    def check(cls, settings: Settings) -> None:
        cls.check_fit(settings, cls.read_config(settings))

    @classmethod
    @abstractmethod
    def read_config(cls, settings: Settings) -> Any:
        """The checkpoint's config; reads no weights.

        Raises:
            CheckpointError: no such checkpoint, or one of another model.
        """

    @staticmethod
    @abstractmethod
    def check_fit(settings: Settings, config: Any) -> None:
        """Raise `SettingsError` if a method, memory or option does not fit a model of this config."""

    @classmethod
    @abstractmethod
    def load(cls, settings: Settings, dtype: str | torch.dtype, device: torch.device) -> tuple[Any, ...]:
        """Read the checkpoint; returns the parts that `assemble` takes.

        The first is the config, or a model with a `config`. The dtype `auto` is the checkpoint's own.

        Raises:
            CheckpointError: a file is missing, damaged or of another model.
        """

    @abstractmethod
    def assemble(self, *parts: Any) -> None:
        """Set the attributes declared above, and the model's own."""

    def eager_reason(self) -> str:
        """Why no frame of this model can be a captured graph, if that is known before the first."""
        return ""

    def project(self, features_FTD: Tensor) -> Tensor:
        """Tower features [F,T,D] to the tokens [F,N,E] that a stream takes in; by default, no change."""
        return features_FTD

    @classmethod
    def from_parts(cls, settings: Settings, *parts: Any) -> Self:
        """A model around loaded parts, see `load`; refuses settings as `check_fit` does.

        Settings that concern loading (`pretrained`, `revision`, `dtype`, `device`, `attn_implementation`) are
        not applied but echoed in results, so they must be true.
        """
        cls.check_fit(settings, getattr(parts[0], "config", parts[0]))
        self = cls.__new__(cls)
        self._set_up(settings, parts)
        return self

    def with_settings(self, settings: Settings) -> Self:
        return self.from_parts(settings, *self.parts)

    def _set_up(self, settings: Settings, parts: tuple[Any, ...]) -> None:
        self.settings, self.parts = settings, parts
        self.options = settings.built_model_options
        self.method = settings.built_method
        self.memory = settings.built_memory  # None if the model has one of its own
        self.assemble(*parts)
        self.device, self.dtype = self.llm.device, self.llm.dtype
        self.capture = CudaCapture(self.device, settings.cuda_graphs)
        # A reason that is known before any frame is set here: `describe` must not report a graph.
        tower = self.method.tower
        unknown = tower is not None and tower.role(tower.open_state()) is None
        self.capture.reason = self.capture.reason or self.eager_reason() or (UNKNOWN_ROLE if unknown else "")

    def open_stream(self) -> Any:
        return self.stream_class(self)

    def describe(self) -> dict[str, Any]:
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
    """A checkpoint in the layout of transformers: stock model and processor; see `LoadedModel.load`."""
    name, revision, attention = checkpoint(settings), settings.revision, settings.attn_implementation
    processor = compat.load_processor(name, revision)
    return compat.load_weights(model_class, name, dtype, attention, revision).to(device), processor
