"""What an operator is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from narfx.space.records import Site

__all__ = ["Operator"]


@dataclass(frozen=True)
class Operator:
    """One entry of the registry; only ``name`` and ``build`` are needed.

    ``build(site)`` makes a module that maps the site's input shape to its output shape, a new one at each call;
    ``refuse(site)`` gives the reason why it may not stand there, or ``None`` (without it the operator may stand
    everywhere); ``cost(site)`` its parameters and MACs on one map of the site as ``{"params", "macs"}`` (without it
    they are counted on the module); ``start(module, conv)`` sets its weights from the base convolution, called without
    gradients (without it they stay as ``build`` draws them, from a seed of their own).
    """

    name: str
    build: Callable[[Site], nn.Module]
    refuse: Callable[[Site], str | None] | None = None
    cost: Callable[[Site], Mapping[str, float]] | None = None
    start: Callable[[nn.Module, nn.Conv2d], None] | None = None
