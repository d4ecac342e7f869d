"""All methods by name. A method is a recipe that fills up to two slots of the pipeline.

To add one: write its file, add one `Recipe` line here, and one row to the shared test matrix.
"""

import dataclasses
from dataclasses import dataclass

from stc_lmms.errors import SettingsError
from stc_lmms.methods.base import TokenMethod, TowerMethod
from stc_lmms.methods.dycoke import DyCoke
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.methods.stc_pruner import STCPruner
from stc_lmms.methods.streamdycoke import StreamDyCoke
from stc_lmms.suggest import unknown


@dataclass(frozen=True)
class Recipe:
    """A named method.

    Attributes:
        name: the value of the model argument `method`.
        summary: one line for listings.
        tower: class that fills the in-tower slot, if any.
        token: class that fills the token slot, if any.
    """

    name: str
    summary: str
    tower: type[TowerMethod] | None = None
    token: type[TokenMethod] | None = None

    @property
    def fields(self) -> dict[str, dataclasses.Field]:
        """Hyper-parameters of both slots by name; they are model arguments."""
        slots = [slot for slot in (self.tower, self.token) if slot is not None]
        return {field.name: field for slot in slots for field in dataclasses.fields(slot)}


@dataclass(frozen=True)
class Method:
    """A recipe with its hyper-parameters filled in."""

    name: str
    tower: TowerMethod | None = None
    token: TokenMethod | None = None


_RECIPES = (
    Recipe("none", "dense: every token of every frame"),
    Recipe("stc", "STC-Cacher in the tower and STC-Pruner before the prefill", STCCacher, STCPruner),
    Recipe("stc_cacher", "recompute only the vision tokens that changed", tower=STCCacher),
    Recipe("stc_pruner", "keep a budget of novel tokens per frame", token=STCPruner),
    Recipe("dycoke", "one frame in four whole, of the others the tokens that changed most", token=DyCoke),
    Recipe("streamdycoke", "whole frames now and then, in between what is new", token=StreamDyCoke),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        SettingsError: there is none; names the nearest.
    """
    if name not in RECIPES:
        raise SettingsError(unknown("method", name, RECIPES))
    return RECIPES[name]


def build(name: str, options: dict[str, object]) -> Method:
    """Fill in a recipe; `options` may only hold fields of its slots.

    Raises:
        SettingsError: a value is out of range.
    """
    chosen = recipe(name)

    def fill(slot: type | None):
        if slot is None:
            return None
        names = {field.name for field in dataclasses.fields(slot)}
        return slot(**{key: value for key, value in options.items() if key in names})

    return Method(name, fill(chosen.tower), fill(chosen.token))
