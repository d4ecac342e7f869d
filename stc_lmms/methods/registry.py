"""All methods by name. To add one: write its module, with `SPECS`, and add one line here.

Methods of other packages are found by their entry points, see `plugins.py`.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module

from stc_lmms.errors import SettingsError
from stc_lmms.methods.plugins import load
from stc_lmms.methods.spec import Method, MethodSpec
from stc_lmms.suggest import unknown

_MODULES = (
    "none",
    "stc",
    "stc_cacher",
    "stc_pruner",
    "tome",
    "visionzip",
    "vidcom2",
    "vidcom2_two_score",
    "dycoke",
    "streamdycoke",
    "controls",
    "downsample",
    "pixel_diff",
)


class MethodSpecs(Mapping[str, MethodSpec]):
    """Methods by name: ours, and those of other packages, which are imported when they are needed."""

    def __init__(self):
        modules = (import_module(f"{__package__}.{name}") for name in _MODULES)
        self._own = {spec.name: spec for module in modules for spec in module.SPECS}

    @cached_property
    def _all(self) -> dict[str, MethodSpec]:
        return self._own | load(taken=self._own)

    def __getitem__(self, name: str) -> MethodSpec:
        return self._own[name] if name in self._own else self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


METHODS = MethodSpecs()


def method_spec(name: str) -> MethodSpec:
    """The method called `name`.

    Raises:
        SettingsError: there is none; names the nearest.
    """
    if name not in METHODS:
        raise SettingsError(unknown("method", name, METHODS))
    return METHODS[name]


def build(name: str, options: Mapping[str, object]) -> Method:
    """The method called `name` with these hyper-parameters.

    Raises:
        SettingsError: there is none, or a value is out of range.
    """
    return method_spec(name).build(options)
