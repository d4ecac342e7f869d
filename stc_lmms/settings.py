"""Model arguments: flat, typed, validated before anything heavy is loaded.

Values come from three places, later ones winning: the defaults of the dataclasses, the `STC_*`
environment variables that users of the original code have in their scripts, and explicit arguments.
"""

import dataclasses
import logging
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stc_lmms.demo.pretrained import defaults_of, is_demo
from stc_lmms.errors import SettingsError
from stc_lmms.memory import registry as memories
from stc_lmms.memory.base import Memory
from stc_lmms.methods.registry import METHODS, Method, build, method_spec
from stc_lmms.models import registry as models
from stc_lmms.suggest import unknown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Resolved model arguments.

    Attributes:
        model: short name of the model, see `stc_lmms/models/registry.py`; chosen beside the arguments.
        pretrained: hub id or local folder of the checkpoint; `demo` is the small trained
            LLaVA-OneVision that ships with the package.
        method: compression method, see `stc-lmms methods`.
        memory: what stays of old frames: `full` keeps every token's KV, `recent` the last frames, `rekv`
            a window and an archive searched by the question, `bounded` a fixed number of tokens. A model
            may have one of its own instead.
        fps: frames sampled per second of video, on a fixed grid.
        max_frames: refuse a stream longer than this (the sample is recorded as failed) instead of
            running out of memory; None is no limit.
        prefill_frames: frames encoded and prefilled together when that many are available.
        dtype: weights and activations; `auto` is the checkpoint's own, in float32 on a CPU.
        cuda_graphs: launch a single frame (a live stream) as one captured graph where that is possible.
        device: `auto` is the first CUDA device of this rank, else the CPU.
        attn_implementation: attention of the language model. The tower always runs SDPA, so that dense
            and selective frames use the same kernels, and so do memories that run attention themselves.
        decoder: video decoder; `auto` is decord with PyAV as fallback.
        decode_timeout_s: seconds without a frame after which a decoder is killed.
        revision: revision of a hub checkpoint.
        options: the chosen method's own fields, all of them.
        memory_options: the chosen memory's own fields.
        model_options: the model's own fields.
    """

    model: str = "llava_ov"
    pretrained: str = models.MODELS["llava_ov"].pretrained
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
    options: Mapping[str, Any] = field(default_factory=dict)
    memory_options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        """Check ranges of the common fields; method, memory and model check their own."""
        model = models.model(self.model)
        if not self.pretrained.strip():
            raise SettingsError("pretrained is empty; give a folder, a hub id or demo")
        if is_demo(self.pretrained) and not model.demo:
            raise SettingsError(
                f"pretrained={self.pretrained} is a checkpoint of {_WITH_DEMO}; for {self.model} give "
                "a folder or a hub id"
            )
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise SettingsError(f"fps={self.fps} must be a positive number of frames per second")
        if self.prefill_frames < 1:
            raise SettingsError(f"prefill_frames={self.prefill_frames} must be at least 1")
        if self.max_frames is not None and self.max_frames < 1:
            raise SettingsError(f"max_frames={self.max_frames} must be at least 1")
        if not 0 < self.decode_timeout_s <= 86400:  # a day; poll(2) overflows after some weeks
            raise SettingsError(f"decode_timeout_s={self.decode_timeout_s} must be in (0, 86400] seconds")
        self.build_method()
        self.build_model_options()
        memory = self.build_memory()
        if memory is not None and memory.runs_attention and self.attn_implementation != "sdpa":
            raise SettingsError(
                f"attn_implementation={self.attn_implementation} cannot be used with memory={self.memory}, "
                "which runs the attention itself (SDPA kernels); leave it at sdpa"
            )

    def build_method(self) -> Method:
        """The method with its hyper-parameters."""
        return build(self.method, dict(self.options))

    def build_memory(self) -> Memory | None:
        """The memory with its options; None if the model has one of its own."""
        own = models.model(self.model).own_memory
        if own and self.memory != own:
            raise SettingsError(
                f"memory={self.memory} does not fit {self.model}, whose own memory, {own}, is part of the "
                "model; leave memory out"
            )
        return None if own else memories.build(self.memory, self.memory_options)

    def build_model_options(self) -> Any:
        """The model's own options as an object of their dataclass; None if it has none."""
        options = models.model(self.model).load_options()
        return options(**self.model_options) if options is not None else None

    def flat(self) -> dict[str, Any]:
        """All resolved arguments in one flat dict, as the results show them."""
        common = {name: getattr(self, name) for name in _COMMON}
        return common | dict(self.model_options) | dict(self.options) | dict(self.memory_options)


_WITH_DEMO = " and ".join(name for name, model in models.MODELS.items() if model.demo)
_COMMON = {f.name: f for f in dataclasses.fields(Settings) if not f.name.endswith("options")}
_HINTS = typing.get_type_hints(Settings)
_ENVIRONMENT = {
    "STC_CACHE_INTERVAL": ("cache_interval", int),
    "STC_UPDATE_TOKEN_RATIO": ("update_ratio", float),
    "STC_TOKEN_PER_FRAME": ("token_budget", int),
}


def parse_args(text: str) -> dict[str, str]:
    """The value of `--model_args`, `name=value,...`, as a dict.

    Raises:
        SettingsError: a part is not of this form.
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise SettingsError(f"--model_args: {part!r} is not of the form name=value")
        found[name.strip()] = value.strip()
    return found


def resolve(
    args: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    model: str = "llava_ov",
    also: Iterable[str] = (),
    **defaults: Any,
) -> Settings:
    """Model arguments as a user gave them to validated settings.

    Args:
        args: explicit arguments; strings are converted to the field's type.
        environ: where the STC_* variables are looked up.
        model: the model that they are for, a short name or a harness id.
        also: arguments that the caller has dealt with; they are named when another one is unknown.
        defaults: the caller's own defaults, before those of the checkpoint, the model and `Settings`.

    Raises:
        SettingsError: unknown model or argument (names the nearest valid one), wrong type, or out of range.
    """
    args, chosen_model = dict(args), models.model(model)
    if models.model(str(args.get("model", model))) != chosen_model:
        raise SettingsError(f"model={args['model']} is not the model that was chosen, {chosen_model.name}")
    args["model"] = chosen_model.name
    of_memories = {name for memory in memories.MEMORIES for name in memories.fields(memory)}
    of_methods = {name for r in METHODS.values() for name in r.fields}
    of_models = {name for each in models.MODELS.values() for name in option_fields(each)}
    known = set(_COMMON) | of_methods | of_memories | of_models
    for name in args:
        if name not in known:
            raise SettingsError(unknown("model argument", name, known | set(also)))

    environment = _from_environment(environ, chosen_model, explicit=args)
    of_model = {"pretrained": chosen_model.pretrained, "memory": chosen_model.own_memory or Settings.memory}
    checkpoint = str(args.get("pretrained", defaults.get("pretrained", chosen_model.pretrained)))
    of_checkpoint = dict(defaults_of(checkpoint))
    implied = of_model | dict(chosen_model.defaults) | of_checkpoint | defaults | environment
    method = _convert("method", args.get("method", implied.get("method", Settings.method)), str)
    fields = method_spec(method).fields
    memory = _convert("memory", args.get("memory", implied["memory"]), str)
    memory_fields = {} if chosen_model.own_memory else memories.fields(memory)
    model_fields = option_fields(chosen_model)
    for name in fields:
        if name in _COMMON:  # only possible in a plug-in; it would hide the value of ours
            raise SettingsError(
                f"method {method!r} has a field called {name!r}, as every model has: rename it"
            )
        if name in model_fields:
            raise SettingsError(
                f"method {method!r} and model {chosen_model.name!r} both have a field called {name!r}: "
                "rename it"
            )
    for name in model_fields:
        if name in _COMMON or name in of_memories:
            raise SettingsError(
                f"model {chosen_model.name!r} has an option called {name!r}, a name in use: rename it"
            )
    used = [
        f"{name}={value}" for name, value in sorted(environment.items()) if name in fields or name in _COMMON
    ]
    if used:
        logger.warning("from STC_* environment variables: %s (arguments override them)", ", ".join(used))
    unused = set(args) - set(fields) - set(memory_fields) - set(model_fields) - set(_COMMON)
    for chooser, names in (
        (f"method={method}", unused & of_methods),
        (f"memory={memory}", unused & of_memories),
        (f"model {chosen_model.name}", unused & of_models),
    ):
        if names:
            logger.warning("%s does not use %s; ignored", chooser, ", ".join(sorted(names)))

    given = implied | args
    common = {name: _convert(name, value, _HINTS[name]) for name, value in given.items() if name in _COMMON}
    chosen = method_spec(method)
    slots = [slot for slot in (chosen.tower, chosen.token) if slot is not None]
    memory_owner = [] if chosen_model.own_memory else [memories.MEMORIES[memory]]
    return Settings(
        **common | {"method": method, "memory": memory},
        options=_options(given, fields, slots),
        memory_options=_options(given, memory_fields, memory_owner),
        model_options=_options(given, model_fields, filter(None, [chosen_model.load_options()])),
    )


def option_fields(model: models.Model) -> dict[str, dataclasses.Field]:
    """A model's own arguments by name."""
    options = model.load_options()
    return {} if options is None else {f.name: f for f in dataclasses.fields(options)}


def _from_environment(
    environ: Mapping[str, str], model: models.Model, explicit: Mapping[str, Any]
) -> dict[str, Any]:
    found = {
        name: _convert(variable, environ[variable], hint)
        for variable, (name, hint) in _ENVIRONMENT.items()
        if environ.get(variable)
    }
    if environ.get("STC_PATCH_VISION"):
        on = _convert("STC_PATCH_VISION", environ["STC_PATCH_VISION"], bool)
        # Models of which no tokens may be left out have the cacher alone to turn on and off.
        cacher_only = model.defaults.get("method") == "stc_cacher"
        on_off = ("stc_cacher", "none") if cacher_only else ("stc", "stc_pruner")
        found["method"] = on_off[not on]
    return {name: value for name, value in found.items() if name not in explicit}


def _options(
    given: Mapping[str, Any], fields: Mapping[str, dataclasses.Field], owners: Iterable[type]
) -> Mapping[str, Any]:
    """All fields, with their defaults where nothing is given, in the types that their classes state."""
    hints: dict[str, Any] = {}
    for owner in owners:
        hints = typing.get_type_hints(owner) | hints
    options = {name: _default(f) for name, f in fields.items()}
    options |= {name: _convert(name, given[name], hints[name]) for name in fields if name in given}
    return types.MappingProxyType(options)


def _default(f: dataclasses.Field) -> Any:
    return f.default if f.default is not dataclasses.MISSING else f.default_factory()


def _convert(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type of `hint`; harness command lines give str, int, float or bool."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if str(value) not in allowed:
            raise SettingsError(unknown(f"{name} value", str(value), allowed))
        return str(value)
    if origin is types.UnionType:
        if value is None or value in ("none", "None"):
            return None
        (hint,) = (t for t in typing.get_args(hint) if t is not type(None))
    try:
        if hint is bool:
            return _to_bool(value)
        if hint is int:
            number = float(value)
            if isinstance(value, bool) or number != int(number):
                raise ValueError
            return int(number)
        if hint is float:
            if isinstance(value, bool):
                raise ValueError
            return float(value)
    except (TypeError, ValueError, OverflowError):
        raise SettingsError(f"{name}={value!r} is not a valid {hint.__name__}") from None
    return str(value)


def _to_bool(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("1", "0", "true", "false", "yes", "no", "on", "off"):
        raise ValueError(value)
    return text in ("1", "true", "yes", "on")
