"""Modules that declare what else may stand in their place, such as the edges of a cell.

Such a module has a method ``narfx_candidates()``, which returns a builder for each name. It is one call of a trace, so
that it can be swapped. A module that declares nothing (an empty mapping) is fixed: a trace goes into it, but nothing
inside is refined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ["candidates_of", "declares", "fixed_parts"]

_METHOD = "narfx_candidates"


def candidates_of(module: nn.Module) -> Any:
    """What the module's own ``narfx_candidates()`` returns, unchecked; ``None`` where it has no such method."""
    declare: Callable[[], Any] | None = getattr(module, _METHOD, None)
    return None if declare is None or isinstance(declare, nn.Module) else declare()


def declares(module: nn.Module) -> bool:
    """Whether a module declares candidates; one whose declaration fails does, so that its fault can be reported."""
    if not callable(getattr(type(module), _METHOD, None)):
        return False
    try:
        found = candidates_of(module)
    except Exception:
        return True
    return not isinstance(found, Mapping) or bool(found)


def fixed_parts(model: nn.Module) -> Iterator[str]:
    """The paths of the modules that declare nothing."""
    for path, module in model.named_modules():
        if callable(getattr(type(module), _METHOD, None)) and not declares(module):
            yield path
