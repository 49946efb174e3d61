"""Replace functional dropouts by modules, so that a traced network follows its training mode.

A trace of ``F.dropout(x, p, training=self.training)`` bakes in the mode of the trace. If a trace in the other mode has
the same call with the other value, the call is replaced by ``nn.Dropout(p)``, a module without parameters under an
unused name. Restoring writes the original call again, with the mode that was baked in.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional as F

from narfx.graph.nodes import free_name
from narfx.passes.base import Pass

__all__ = ["LIFTED_DROPOUT", "LiftDropout", "RestoreDropout"]

LIFTED_DROPOUT = "narfx_lifted_dropout"
"""The attribute in which a module keeps the function and arguments of the call that it replaced."""
_INPUT = "the input"

_MODULES: dict[object, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


class LiftDropout(Pass):
    """Replace functional dropouts by modules, in place; ``other`` is the graph of the same model in the other mode."""

    in_place: ClassVar[bool] = True

    def __init__(self, other: Graph) -> None:
        self.modes = {node.name: _mode(node) for node in other.nodes if _mode(node) is not None}

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Replace each dropout that has another mode in the other graph."""
        modified = False
        for node in graph_module.graph.nodes:
            mode = _mode(node)
            if mode is None or self.modes.get(node.name, mode) == mode:
                continue
            options = _options(node.args, node.kwargs)
            name = free_name(graph_module, "dropout")
            module = _module(node.target, options).train(graph_module.training)
            setattr(
                module, LIFTED_DROPOUT, (node.target, *(map_arg(given, _name) for given in (node.args, node.kwargs)))
            )
            graph_module.add_submodule(name, module)
            # The same node calls the module, so its name, place and source line stay.
            node.args, node.kwargs = (options["input"],), {}
            node.op, node.target = "call_module", name
            modified = True
        return graph_module, modified


class RestoreDropout(Pass):
    """Undo :class:`LiftDropout`, in place, where the module is still the dropout that replaced the call."""

    in_place: ClassVar[bool] = True

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Write the original calls again and remove their modules."""
        modified = False
        for node in graph_module.graph.nodes:
            if node.op != "call_module":
                continue
            target, source = str(node.target), node.args[0]
            found: Any = graph_module.get_submodule(target)
            if not hasattr(found, LIFTED_DROPOUT):
                continue
            function, args, kwargs = getattr(found, LIFTED_DROPOUT)
            args, kwargs = (_with_input(given, source) for given in (args, kwargs))
            made = _module(function, _options(args, kwargs))
            if type(found) is not type(made) or (found.p, found.inplace) != (made.p, made.inplace):
                continue
            node.op, node.target, node.args, node.kwargs = "call_function", function, args, kwargs
            graph_module.delete_submodule(target)
            modified = True
        return graph_module, modified


def _name(_: Node) -> str:
    """The placeholder for the input node in stored arguments; a node belongs to one graph and cannot be copied."""
    return _INPUT


def _with_input(arguments: Any, source: Any) -> Any:
    return map_aggregate(arguments, lambda argument: source if argument == _INPUT else argument)


def _module(function: Any, options: dict[str, Any]) -> Any:
    return _MODULES[function](p=options.get("p", 0.5), inplace=options.get("inplace", False))


def _options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(("input", "p", "training", "inplace"), args, strict=False)), **kwargs}


def _mode(node: Node) -> bool | None:
    """The mode that is baked into a dropout that a module can replace; ``None`` for any other node."""
    if node.op != "call_function" or node.target not in _MODULES:
        return None
    options = _options(node.args, node.kwargs)
    if any(isinstance(options.get(key), Node) for key in ("p", "inplace")):
        return None  # computed: a module cannot hold it
    mode = options.get("training", True)
    return mode if isinstance(mode, bool) else None
