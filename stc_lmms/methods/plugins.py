"""Methods of other packages, found by their entry points.

A package offers a method with, in its pyproject.toml,

    [project.entry-points."stc_lmms.methods"]
    my_method = "my_package.my_module:RECIPE"

where RECIPE is a `stc_lmms.methods.registry.MethodSpec`. It is imported when methods are listed or one that
is not ours is asked for. A plug-in that cannot be used is left out with one warning line; the rest works.
"""

import importlib.metadata
import logging
from collections.abc import Container

logger = logging.getLogger(__name__)

GROUP = "stc_lmms.methods"


def load(wanted: type, taken: Container[str]) -> dict[str, object]:
    """All usable recipes of installed packages, by name.

    Args:
        wanted: their class.
        taken: names that are ours; a plug-in cannot replace one of our methods.
    """
    found: dict[str, object] = {}
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name):
        try:
            recipe = point.load()
            if not isinstance(recipe, wanted):
                raise TypeError(f"is a {type(recipe).__name__}, not a {wanted.__name__}")
            if recipe.name in taken or recipe.name in found:
                raise ValueError(f"there is a method called {recipe.name!r} already")
            recipe.facts()  # a recipe that cannot even be described would break every listing
        except Exception as error:
            text = " ".join(str(error).split())
            logger.warning("method plug-in %s is left out: %s: %s", point.value, type(error).__name__, text)
            continue
        found[recipe.name] = recipe
    return found
