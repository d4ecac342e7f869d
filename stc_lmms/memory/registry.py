"""All memories by name. To add one: write its file and add one line here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from stc_lmms.errors import SettingsError
from stc_lmms.memory.base import Memory
from stc_lmms.memory.bounded import Bounded
from stc_lmms.memory.full import Full
from stc_lmms.memory.recent import Recent
from stc_lmms.memory.rekv import ReKV
from stc_lmms.suggest import unknown

MEMORIES: dict[str, type[Memory]] = {"full": Full, "recent": Recent, "rekv": ReKV, "bounded": Bounded}


def fields(name: str) -> dict[str, dataclasses.Field]:
    """Options of a memory by name; they are model arguments.

    Raises:
        SettingsError: there is no such memory; names the nearest.
    """
    if name not in MEMORIES:
        raise SettingsError(unknown("memory", name, MEMORIES))
    return {field.name: field for field in dataclasses.fields(MEMORIES[name])}


def build(name: str, options: Mapping[str, Any]) -> Memory:
    """A memory with its options.

    Raises:
        SettingsError: there is no such memory, or a value is out of range.
    """
    if name not in MEMORIES:
        raise SettingsError(unknown("memory", name, MEMORIES))
    return MEMORIES[name](**options)
