"""The record of an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from narfx.space.records import Site

__all__ = ["Operator"]


@dataclass(frozen=True)
class Operator:
    """One entry of the registry; only ``name`` and ``build`` are required.

    Attributes:
        name: A Python identifier.
        build: ``build(site)`` returns a new module at each call; it maps the site's input shape to its output shape.
        refuse: ``refuse(site)`` returns the reason why the operator is not legal at the site, or ``None``. Without it
            the operator is legal everywhere.
        cost: ``cost(site)`` returns ``{"params", "macs"}``, the parameters and the MACs on one map of the site.
            Without it they are counted on the module.
        start: ``start(module, conv)`` sets the weights from the base convolution, without gradients. Without it the
            weights stay as ``build`` draws them, from a seed of the operator and the site.
    """

    name: str
    build: Callable[[Site], nn.Module]
    refuse: Callable[[Site], str | None] | None = None
    cost: Callable[[Site], Mapping[str, float]] | None = None
    start: Callable[[nn.Module, nn.Conv2d], None] | None = None
