"""From a supernet and a vector to an ordinary network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.passes.lower import Lower
from narfx.support.collector import collector_paused
from narfx.support.text import article

__all__ = ["lower"]


@collector_paused()
def lower(net: Supernet, vector: Sequence[int | str]) -> fx.GraphModule:
    """The network that ``vector`` describes, as an ordinary GraphModule with the supernet's current weights.

    It contains no class of narfx, keeps the state-dict keys of untouched parts, and shares no storage with ``net``.
    The vector or mixture of ``net`` does not change. Parameters and keys have the order of the traced model; those of
    an operator take the place of the convolution that it replaces. Where the model calls a convolution function, that
    place is after the submodules of the module that holds the weight.

    Raises:
        UsageError: The vector is not legal, or ``net`` is no supernet.
    """
    if not isinstance(net, Supernet):
        raise UsageError(
            f"lower takes a narfx.Supernet, not {article(net)}: narfx.Supernet(narfx.trace(model, ...)) makes one",
            where="net",
            kind="not_a_supernet",
        )
    lowered: fx.GraphModule = Lower(net.space, vector)(net.graph_module).graph_module
    return lowered
