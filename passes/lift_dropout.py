"""Make modules of functional dropouts, so that a traced network follows its mode.

``F.dropout(x, p, training=self.training)`` is traced with the mode of the trace in it. Where a trace in the other mode
has the same call with the other value, the call is ``nn.Dropout(p)`` and becomes that: a module without parameters
under a name that the model does not use.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional as F

from narfx.passes.base import Pass, free_name

__all__ = ["LiftDropout"]

_MODULES: dict[object, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


class LiftDropout(Pass):
    """In place. ``other`` is the graph of the same model in the other mode."""

    in_place: ClassVar[bool] = True

    def __init__(self, other: Graph) -> None:
        self.modes = {node.name: _mode(node) for node in other.nodes if _mode(node) is not None}

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Replace each dropout whose mode is another one in the other graph."""
        modified = False
        for node in list(graph_module.graph.nodes):
            mode = _mode(node)
            if mode is None or self.modes.get(node.name, mode) == mode:
                continue
            name = free_name(graph_module, "dropout")
            options = _options(node)
            module = _MODULES[node.target](p=options.get("p", 0.5), inplace=options.get("inplace", False))
            graph_module.add_submodule(name, module.train(graph_module.training))
            with graph_module.graph.inserting_before(node):
                call = graph_module.graph.call_module(name, (options["input"],))
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
            graph_module.graph.erase_node(node)
            modified = True
        return graph_module, modified


def _options(node: Node) -> dict[str, Any]:
    return {**dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)), **node.kwargs}


def _mode(node: Node) -> bool | None:
    """The mode that is baked into a dropout; ``None`` for any other node."""
    if node.op != "call_function" or node.target not in _MODULES:
        return None
    mode = _options(node).get("training", True)
    return mode if isinstance(mode, bool) else None
