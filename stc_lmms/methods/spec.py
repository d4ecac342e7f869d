"""A method by name: which classes fill the two slots of the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stc_lmms.errors import SettingsError
from stc_lmms.methods.base import ATTENTION, TokenMethod, TowerMethod
from stc_lmms.methods.budget import BudgetKind


@dataclass(frozen=True)
class Method:
    """A named method with its hyper-parameters: up to two slots of the pipeline."""

    name: str
    tower: TowerMethod | None = None
    token: TokenMethod | None = None

    @property
    def budget(self) -> BudgetKind:
        """How the token budget is met: the token slot decides, if there is one."""
        slot = self.token or self.tower
        return slot.budget if slot is not None else "none"


@dataclass(frozen=True)
class MethodSpec:
    """A named method.

    Attributes:
        name: the value of the model argument `method`.
        summary: one line for listings.
        tower, token: classes that fill the in-tower and the token slot.
        paper: arXiv number of the source; "" for controls.
    """

    name: str
    summary: str
    tower: type[TowerMethod] | None = None
    token: type[TokenMethod] | None = None
    paper: str = ""

    @property
    def fields(self) -> dict[str, dataclasses.Field]:
        """Hyper-parameters of both slots by name; they are model arguments."""
        slots = [slot for slot in (self.tower, self.token) if slot is not None]
        return {field.name: field for slot in slots for field in dataclasses.fields(slot)}

    def build(self, options: Mapping[str, object]) -> Method:
        """The method with these hyper-parameters; raises `SettingsError` for a value out of range."""

        def fill(slot: type | None):
            if slot is None:
                return None
            names = {field.name for field in dataclasses.fields(slot)}
            return slot(**{key: value for key, value in options.items() if key in names})

        method = Method(self.name, fill(self.tower), fill(self.token))
        if method.tower is not None and method.token is not None and method.token.needs & ATTENTION:
            raise SettingsError(
                f"method {self.name!r} joins {self.tower.__name__}, which replaces the tower's encoding, "
                f"with {self.token.__name__}, which needs the attention of a dense tower"
            )
        return method

    def facts(self) -> dict[str, Any]:
        """Properties with the default arguments, for tables; plain JSON values."""
        method = self.build({})
        slots = {"tower": method.tower, "tokens": method.token}
        return {
            "name": self.name,
            "summary": self.summary,
            "slots": [name for name, slot in slots.items() if slot is not None],
            "causal": method.token is None or method.token.delay_frames == 0,
            "budget": method.budget,
            "attention_weights": method.token is not None and "attention" in method.token.needs,
            "paper": self.paper,
            "defaults": {name: field.default for name, field in self.fields.items()},
        }
