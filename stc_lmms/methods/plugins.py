"""Methods of other packages, found by their entry points.

A package offers a method with, in its pyproject.toml,

    [project.entry-points."stc_lmms.methods"]
    my_method = "my_package.my_module:METHOD"

where METHOD is a `stc_lmms.methods.spec.MethodSpec`. It is imported when methods are listed, or when a method
that is not ours is requested. A plug-in that cannot be used is skipped with one warning line; the rest works.
"""

import importlib.metadata
import logging
from collections.abc import Container

from stc_lmms.methods.spec import MethodSpec

logger = logging.getLogger(__name__)

GROUP = "stc_lmms.methods"


def load(taken: Container[str]) -> dict[str, MethodSpec]:
    """All usable methods of installed packages, by name.

    Args:
        taken: names that are ours; a plug-in cannot replace one of our methods.
    """
    found: dict[str, MethodSpec] = {}
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name):
        try:
            spec = point.load()
            if not isinstance(spec, MethodSpec):
                raise TypeError(f"is a {type(spec).__name__}, not a MethodSpec")
            if spec.name in taken or spec.name in found:
                raise ValueError(f"there is a method called {spec.name!r} already")
            spec.facts()  # a method that cannot even be described would break every listing
        except Exception as error:
            text = " ".join(str(error).split())
            logger.warning("method plug-in %s is left out: %s: %s", point.value, type(error).__name__, text)
            continue
        found[spec.name] = spec
    return found
