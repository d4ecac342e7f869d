"""From model arguments as a user gives them to checked `config.Settings`, before anything heavy is loaded.

Later sources win: the defaults of the dataclasses, of the model and of its checkpoint; the caller's; the
`STC_*` environment variables that users of the original code have in their scripts; explicit arguments.
"""

import dataclasses
import logging
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from stc_lmms.config import COMMON, Settings
from stc_lmms.demo.pretrained import defaults_of, is_demo
from stc_lmms.errors import SettingsError
from stc_lmms.memory import registry as memories
from stc_lmms.methods.registry import METHODS, method_spec
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.models import registry as models
from stc_lmms.suggest import unknown

logger = logging.getLogger(__name__)

_BOOL = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
_ENVIRONMENT = {
    "STC_CACHE_INTERVAL": ("cache_interval", int),
    "STC_UPDATE_TOKEN_RATIO": ("update_ratio", float),
    "STC_TOKEN_PER_FRAME": ("token_budget", int),
}


def resolve(
    args: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    model: str = "llava_ov",
    also: Iterable[str] = (),
    **defaults: Any,
) -> Settings:
    """Check model arguments and build the method, the memory and the model options that they describe.

    Args:
        args: explicit arguments; strings are converted to the field's type.
        environ: where the STC_* variables are looked up.
        model: short name or harness id.
        also: arguments that the caller handles; listed as valid when another one is unknown.
        defaults: the caller's defaults; they override those of the checkpoint, the model and `Settings`.

    Raises:
        SettingsError: unknown model or argument (names the nearest valid one), wrong type, or out of range.
    """
    args, chosen = dict(args), models.model(model)
    if models.model(str(args.get("model", model))) != chosen:
        raise SettingsError(f"model={args['model']} is not the model that was chosen, {chosen.name}")
    args["model"] = chosen.name
    option_names = {  # of every method, memory and model, to tell unused arguments from unknown ones
        "method": {name for spec in METHODS.values() for name in spec.fields},
        "memory": {name for memory in memories.MEMORIES for name in memories.fields(memory)},
        "model": {name for each in models.MODELS.values() for name in each.option_fields},
    }
    known = set(COMMON).union(*option_names.values())
    for name in args:
        if name not in known:
            raise SettingsError(unknown("model argument", name, known | set(also)))

    environment = _from_environment(environ, chosen, explicit=args)
    values = _defaults(args, chosen, defaults) | environment | args
    spec = method_spec(_convert("method", values["method"], str))
    memory = _convert("memory", values["memory"], str)
    if chosen.own_memory not in ("", memory):
        own = f"whose own memory, {chosen.own_memory}, is part of the model"
        raise SettingsError(f"memory={memory} does not fit {chosen.name}, {own}; leave memory out")
    used = {
        "method": set(spec.fields),
        "memory": set() if chosen.own_memory else set(memories.fields(memory)),
        "model": set(chosen.option_fields),
    }
    _refuse_clashes(spec, chosen, option_names["memory"])
    choices = {"method": f"method={spec.name}", "memory": f"memory={memory}", "model": f"model {chosen.name}"}
    _warn(args, environment, used, option_names, choices)

    hints = typing.get_type_hints(Settings)
    common = {name: _convert(name, values[name], hints[name]) for name in COMMON if name in values}
    if is_demo(common["pretrained"]) and not chosen.demo:
        owners = " and ".join(name for name, each in models.MODELS.items() if each.demo)
        cure = f"for {chosen.name} give a folder or a hub id"
        raise SettingsError(f"pretrained={common['pretrained']} is a checkpoint of {owners}; {cure}")
    options_type, built_memory = chosen.load_options(), None
    if not chosen.own_memory:
        built_memory = memories.build(memory, _options(values, memories.MEMORIES[memory]))
    return Settings(
        **common,
        built_method=spec.build(_options(values, spec.tower, spec.token)),
        built_memory=built_memory,
        built_model_options=options_type and options_type(**_options(values, options_type)),
    )


def with_method(settings: Settings, name: str, **options: Any) -> Settings:
    """`settings` with another method and its options (defaults for those left out)."""
    return dataclasses.replace(settings, method=name, built_method=method_spec(name).build(options))


def _defaults(args: Mapping[str, Any], model: models.Model, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of `Settings`, overridden by the model's, the checkpoint's and the caller's."""
    checkpoint = str(args.get("pretrained", defaults.get("pretrained", model.pretrained)))
    memory = model.own_memory or Settings.memory
    own = {"pretrained": model.pretrained, "method": Settings.method, "memory": memory}
    return own | dict(model.defaults) | dict(defaults_of(checkpoint)) | dict(defaults)


def _from_environment(
    environ: Mapping[str, str], model: models.Model, explicit: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments from STC_* variables, without those that are given explicitly."""
    found = {
        name: _convert(variable, environ[variable], hint)
        for variable, (name, hint) in _ENVIRONMENT.items()
        if environ.get(variable)
    }
    if environ.get("STC_PATCH_VISION"):
        on = _convert("STC_PATCH_VISION", environ["STC_PATCH_VISION"], bool)
        # Models without token dropping can only toggle the cacher.
        cacher_only = model.defaults.get("method") == "stc_cacher"
        methods = ("none", "stc_cacher") if cacher_only else ("stc_pruner", "stc")
        found["method"] = methods[on]
    return {name: value for name, value in found.items() if name not in explicit}


def _refuse_clashes(spec: MethodSpec, model: models.Model, memory_names: set[str]) -> None:
    """Refuse options that share a name with another one: only possible in plug-ins and new models."""
    for name in spec.fields:
        if name in COMMON:
            owner = f"method {spec.name!r} has"
            raise SettingsError(f"{owner} a field called {name!r}, as every model has: rename it")
        if name in model.option_fields:
            owners = f"method {spec.name!r} and model {model.name!r}"
            raise SettingsError(f"{owners} both have a field called {name!r}: rename it")
    for name in model.option_fields:
        if name in COMMON or name in memory_names:
            owner = f"model {model.name!r} has"
            raise SettingsError(f"{owner} an option called {name!r}, a name in use: rename it")


def _warn(
    args: Mapping[str, Any],
    environment: Mapping[str, Any],
    used: Mapping[str, set[str]],
    option_names: Mapping[str, set[str]],
    choices: Mapping[str, str],
) -> None:
    """Log which environment variables count and which arguments nothing uses."""
    names = used["method"].union(COMMON)
    applied = [f"{name}={value}" for name, value in sorted(environment.items()) if name in names]
    if applied:
        logger.warning("from STC_* environment variables: %s (arguments override them)", ", ".join(applied))
    unused = set(args) - set(COMMON).union(*used.values())
    for kind, names in option_names.items():
        if unused & names:
            logger.warning("%s does not use %s; ignored", choices[kind], ", ".join(sorted(unused & names)))


def _options(values: Mapping[str, Any], *owners: type | None) -> dict[str, Any]:
    """The fields of some dataclasses for which there is a value, converted to the declared types."""
    found = {}
    for owner in filter(None, owners):
        hints = typing.get_type_hints(owner)
        names = [f.name for f in dataclasses.fields(owner) if f.name in values]
        found |= {name: _convert(name, values[name], hints[name]) for name in names}
    return found


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
            return _BOOL[str(value).lower()]
        if hint in (int, float):
            number = float(value)
            if isinstance(value, bool) or (hint is int and number != int(number)):
                raise ValueError
            return hint(number)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise SettingsError(f"{name}={value!r} is not a valid {hint.__name__}") from None
    return str(value)
