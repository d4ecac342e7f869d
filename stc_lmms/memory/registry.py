"""All memories by name. To add one: write its file, add one line here and its name in `settings.py`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from stc_lmms.memory.base import Memory
from stc_lmms.memory.bounded import Bounded
from stc_lmms.memory.full import Full
from stc_lmms.memory.recent import Recent
from stc_lmms.memory.rekv import ReKV

MEMORIES: dict[str, type[Memory]] = {"full": Full, "recent": Recent, "rekv": ReKV, "bounded": Bounded}


def fields(name: str) -> dict[str, dataclasses.Field]:
    """Options of a memory by name; they are model arguments."""
    return {field.name: field for field in dataclasses.fields(MEMORIES[name])}


def build(name: str, options: Mapping[str, Any]) -> Memory:
    """A memory with its options.

    Raises:
        SettingsError: a value is out of range.
    """
    return MEMORIES[name](**options)
