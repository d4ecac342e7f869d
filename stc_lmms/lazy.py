"""PyTorch, imported when it is first used: importing methods, memories and kernels stays fast.

Listings and argument checks read the dataclasses of every method and memory, and need none of PyTorch. Files
that they import take `torch`, `functional` and `Tensor` from here, and start with
`from __future__ import annotations`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

P, T = ParamSpec("P"), TypeVar("T")


class _Module:
    """Stands for a module; any access to an attribute imports it."""

    def __init__(self, name: str):
        self._name = name

    @functools.cached_property
    def _module(self) -> Any:
        return importlib.import_module(self._name)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._module, attribute)


if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional
else:
    Tensor = Any  # for annotations; at run time, use `torch.Tensor`
    torch = _Module("torch")
    functional = _Module("torch.nn.functional")


def no_grad(function: Callable[P, T]) -> Callable[P, T]:
    """`torch.no_grad` as a decorator that imports PyTorch at the first call."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.no_grad():
            return function(*args, **kwargs)

    return run
