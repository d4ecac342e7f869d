"""All methods by name. A method is a recipe that fills up to two slots of the pipeline.

To add one here: write its file, add one `MethodSpec` line, and one row to the shared test matrix. To add one
from another package: see `plugins.py`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stc_lmms.errors import SettingsError
from stc_lmms.methods import controls
from stc_lmms.methods.base import ATTENTION, Method, TokenMethod, TowerMethod
from stc_lmms.methods.downsample import Downsample
from stc_lmms.methods.dycoke import DyCoke
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.methods.stc_pruner import STCPruner
from stc_lmms.methods.streamdycoke import StreamDyCoke
from stc_lmms.methods.tome import ToMe, ToMeOneShot
from stc_lmms.methods.vidcom2 import VidCom2
from stc_lmms.methods.vidcom2_two_score import VidCom2TwoScore
from stc_lmms.methods.visionzip import VisionZip
from stc_lmms.suggest import unknown


@dataclass(frozen=True)
class MethodSpec:
    """A named method.

    Attributes:
        name: the value of the model argument `method`.
        summary: one line for listings.
        tower: class that fills the in-tower slot, if any.
        token: class that fills the token slot, if any.
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
        """Fill in the slots; `options` may only hold fields of them.

        Raises:
            SettingsError: a value is out of range.
        """

        def fill(slot: type | None):
            if slot is None:
                return None
            names = {field.name for field in dataclasses.fields(slot)}
            return slot(**{key: value for key, value in options.items() if key in names})

        method = Method(self.name, fill(self.tower), fill(self.token))
        if method.tower is not None and method.token is not None and method.token.needs & ATTENTION:
            raise SettingsError(
                f"method {self.name!r} joins {self.tower.__name__}, which runs the tower in its own way, "
                f"with {self.token.__name__}, which needs the attention of a dense tower"
            )
        return method

    def facts(self) -> dict[str, Any]:
        """What a table of methods says, for the default arguments; plain JSON values."""
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


STC, TOME, VISIONZIP = "2512.00891", "2210.09461", "2412.04467"
VIDCOM2, DYCOKE = "2505.14454", "2411.15024"
_SPECS = (
    MethodSpec("none", "dense: every token of every frame"),
    MethodSpec("stc", "STC-Cacher in the tower and STC-Pruner before the prefill", STCCacher, STCPruner, STC),
    MethodSpec("stc_cacher", "recompute only the vision tokens that changed", tower=STCCacher, paper=STC),
    MethodSpec("stc_pruner", "keep a budget of novel tokens per frame", token=STCPruner, paper=STC),
    MethodSpec("tome", "merge similar tokens in every tower layer; no pooling after", ToMe, paper=TOME),
    MethodSpec("tome_oneshot", "merge similar tokens behind the tower, by thirds", ToMeOneShot, paper=TOME),
    MethodSpec(
        "visionzip",
        "tokens that receive the most attention; mode=full merges the rest",
        token=VisionZip,
        paper=VISIONZIP,
    ),
    MethodSpec(
        "vidcom2",
        "tokens unlike the video and their frame; mode=original shares a window's budget",
        token=VidCom2,
        paper=VIDCOM2,
    ),
    MethodSpec(
        "vidcom2_two_score",
        "the memory-and-frame score published under VidCom2's name (that of STC-Pruner)",
        token=VidCom2TwoScore,
        paper=STC,
    ),
    MethodSpec(
        "dycoke",
        "one frame in four whole, of the others the tokens that changed most",
        token=DyCoke,
        paper=DYCOKE,
    ),
    MethodSpec("streamdycoke", "whole frames now and then, in between what is new", token=StreamDyCoke),
    MethodSpec("random", "control: random tokens of every frame", token=controls.Random),
    MethodSpec("uniform", "control: evenly spaced tokens of every frame", token=controls.Uniform),
    MethodSpec("uniform_frames", "control: evenly spaced whole frames", token=controls.UniformFrames),
    MethodSpec("downsample", "control: every frame at a lower resolution", tower=Downsample),
    MethodSpec("pixel_diff", "control: tokens whose pixels changed most", token=controls.PixelDiff),
)


class MethodSpecs(Mapping[str, MethodSpec]):
    """MethodSpecs by name: ours, and those of other packages once anybody looks."""

    def __init__(self, own: tuple[MethodSpec, ...]):
        self._own = {recipe.name: recipe for recipe in own}

    @cached_property
    def _all(self) -> dict[str, MethodSpec]:
        from stc_lmms.methods.plugins import load

        return self._own | load(MethodSpec, taken=self._own)

    def __getitem__(self, name: str) -> MethodSpec:
        return self._own[name] if name in self._own else self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def register(self, recipe: MethodSpec) -> None:
        """Add a recipe for this process.

        Raises:
            SettingsError: there is one of that name.
        """
        if recipe.name in self:
            raise SettingsError(f"a method called {recipe.name!r} is there already; give yours another name")
        self._all[recipe.name] = recipe


METHODS = MethodSpecs(_SPECS)


def method_spec(name: str) -> MethodSpec:
    """The recipe called `name`.

    Raises:
        SettingsError: there is none; names the nearest.
    """
    if name not in METHODS:
        raise SettingsError(unknown("method", name, METHODS))
    return METHODS[name]


def build(name: str, options: dict[str, object]) -> Method:
    """Fill in the recipe called `name`.

    Raises:
        SettingsError: there is none, or a value is out of range.
    """
    return method_spec(name).build(options)
