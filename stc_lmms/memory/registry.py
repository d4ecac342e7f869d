"""All memories by name. To add one: write its module and add one line here."""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from stc_lmms.errors import SettingsError
from stc_lmms.memory.base import Memory
from stc_lmms.suggest import unknown

_CLASSES = {
    "full": "Full",
    "recent": "Recent",
    "rekv": "ReKV",
    "bounded": "Bounded",
}
MEMORIES: dict[str, type[Memory]] = {
    name: getattr(import_module(f"{__package__}.{name}"), cls) for name, cls in _CLASSES.items()
}


def fields(name: str) -> dict[str, dataclasses.Field]:
    """Options of a memory by name, which are model arguments; `SettingsError` if there is no such memory."""
    return {field.name: field for field in dataclasses.fields(_find(name))}


def build(name: str, options: Mapping[str, Any]) -> Memory:
    """A memory with its options; `SettingsError` for an unknown name or a value out of range."""
    return _find(name)(**options)


def _find(name: str) -> type[Memory]:
    if name not in MEMORIES:
        raise SettingsError(unknown("memory", name, MEMORIES))
    return MEMORIES[name]
