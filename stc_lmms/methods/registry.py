"""All methods by name. To add one: write its module, with `SPECS`, and add one line here.

Another package offers a method with, in its pyproject.toml,

    [project.entry-points."stc_lmms.methods"]
    my_method = "my_package.my_module:METHOD"

where METHOD is a `stc_lmms.methods.spec.MethodSpec`. It is imported when methods are listed, or when a method
that is not ours is requested. A plug-in that cannot be used is skipped with one warning line; the rest works.
"""

import importlib.metadata
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module

from stc_lmms.errors import SettingsError
from stc_lmms.methods.spec import Method, MethodSpec
from stc_lmms.suggest import unknown

logger = logging.getLogger(__name__)

GROUP = "stc_lmms.methods"
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
        found = dict(self._own)
        for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name):
            try:
                spec = point.load()
                if not isinstance(spec, MethodSpec):
                    raise TypeError(f"is a {type(spec).__name__}, not a MethodSpec")
                if spec.name in found:
                    raise ValueError(f"there is a method called {spec.name!r} already")
                spec.facts()  # a method that cannot even be described would break every listing
            except Exception as error:
                text, kind = " ".join(str(error).split()), type(error).__name__
                logger.warning("method plug-in %s is left out: %s: %s", point.value, kind, text)
                continue
            found[spec.name] = spec
        return found

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
    """The method called `name` with these hyper-parameters; raises `SettingsError`."""
    return method_spec(name).build(options)
