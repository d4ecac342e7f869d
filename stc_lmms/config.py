"""The resolved arguments of a model: plain data, see `settings.resolve` for how they are made."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stc_lmms.errors import SettingsError
from stc_lmms.memory.base import Memory
from stc_lmms.methods.spec import Method


@dataclass(frozen=True)
class Settings:
    """Resolved model arguments, with the objects that were built from them.

    To change a common argument, use `dataclasses.replace`; to change the method, `settings.with_method`.

    Attributes:
        model: short name of the model, see `stc_lmms/models/registry.py`; not one of the arguments.
        pretrained: hub id or local folder of the checkpoint; `demo` is the small trained
            LLaVA-OneVision that ships with the package.
        memory: what is kept of old frames: `full` keeps every token's KV, `recent` the last frames, `rekv`
            a window and an archive searched by the question, `bounded` a fixed number of tokens. A model
            may have its own memory instead.
        fps: frames sampled per second of video, at fixed intervals.
        max_frames: refuse a longer stream (the sample is recorded as failed) instead of running out of
            memory; None for no limit.
        prefill_frames: frames encoded and prefilled together when that many are available.
        dtype: weights and activations; `auto` is the checkpoint's own, and float32 on a CPU.
        device: `auto` is the first CUDA device of this rank, else the CPU.
        cuda_graphs: launch a single frame (a live stream) as one captured graph where possible.
        attn_implementation: attention of the language model. The tower always runs SDPA, so that dense
            and selective frames use the same kernels, and so do memories that run attention themselves.
        decoder: video decoder; `auto` is decord with PyAV as fallback.
        decode_timeout_s: seconds without a frame after which a decoder is killed.
        built_method, built_memory: with their options; no memory is built if the model has its own.
        built_model_options: an instance of the model's own options; None if it has none.
    """

    model: str
    pretrained: str
    method: str = "stc"
    memory: str = "full"
    fps: float = 0.5
    max_frames: int | None = None
    prefill_frames: int = 16
    dtype: Literal["auto", "float32", "float16", "bfloat16", "float64"] = "auto"
    device: str = "auto"
    cuda_graphs: bool = True
    attn_implementation: Literal[
        "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"
    ] = "sdpa"
    decoder: Literal["auto", "decord", "pyav", "torchcodec"] = "auto"
    decode_timeout_s: float = 60.0
    revision: str | None = None
    built_method: Method = field(kw_only=True)
    built_memory: Memory | None = field(kw_only=True)
    built_model_options: Any = field(kw_only=True)

    def __post_init__(self):
        """Check the ranges of the common arguments; method, memory and model check their own."""
        if self.built_method.name != self.method:
            raise ValueError(f"method={self.method} but {self.built_method.name} was built; use with_method")
        if not self.pretrained.strip():
            raise SettingsError("pretrained is empty; give a folder, a hub id or demo")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise SettingsError(f"fps={self.fps} must be a positive number of frames per second")
        if self.prefill_frames < 1:
            raise SettingsError(f"prefill_frames={self.prefill_frames} must be at least 1")
        if self.max_frames is not None and self.max_frames < 1:
            raise SettingsError(f"max_frames={self.max_frames} must be at least 1")
        if not 0 < self.decode_timeout_s <= 86400:  # a day; poll(2) overflows after some weeks
            raise SettingsError(f"decode_timeout_s={self.decode_timeout_s} must be in (0, 86400] seconds")
        memory = self.built_memory
        if memory is not None and memory.runs_attention and self.attn_implementation != "sdpa":
            raise SettingsError(
                f"attn_implementation={self.attn_implementation} cannot be used with memory={self.memory}, "
                "which runs the attention itself (SDPA kernels); leave it at sdpa"
            )

    @property
    def options(self) -> dict[str, Any]:
        """The method's options by name."""
        return _values(self.built_method.tower) | _values(self.built_method.token)

    @property
    def memory_options(self) -> dict[str, Any]:
        """The memory's options by name."""
        return _values(self.built_memory)

    @property
    def model_options(self) -> dict[str, Any]:
        """The model's own options by name."""
        return _values(self.built_model_options)

    def flat(self) -> dict[str, Any]:
        """All resolved arguments in one flat dict, as the results show them."""
        common = {name: getattr(self, name) for name in COMMON}
        return common | self.model_options | self.options | self.memory_options


COMMON: Mapping[str, dataclasses.Field] = {
    f.name: f for f in dataclasses.fields(Settings) if not f.name.startswith("built_")
}
"""The arguments that every model has, by name."""


def _values(built: Any) -> dict[str, Any]:
    return {} if built is None else {f.name: getattr(built, f.name) for f in dataclasses.fields(built)}
