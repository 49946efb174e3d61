"""Write what a module computes into the graph that calls it, so that a lowered network needs no class of the user's.

The module's own parts keep their paths, so the state dict keeps its keys. A module stays one call if a trace would
lose something: it reads ``self.training``, has hooks, is called more than once, or cannot be traced.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.fx import GraphModule, Node

from narfx.errors import UsageError
from narfx.graph.nodes import call_targets, put_module
from narfx.graph.source import mentions_training
from narfx.graph.tracer import forward_hooks
from narfx.graph.tracing import GraphTrace, trace_graph
from narfx.graph.unused import unused_keys

__all__ = ["inline"]


def inline(graph_module: GraphModule, targets: Iterable[str]) -> bool:
    """Inline the modules at these paths in place, where they hold more than torch's own; whether any was."""
    calls, changed = call_targets(graph_module), False
    for target in dict.fromkeys(targets):
        nodes = calls.get(target, [])
        if len(nodes) != 1 or nodes[0].kwargs:
            continue
        traced = _traced(graph_module.get_submodule(target), nodes[0])
        if traced is not None:
            _splice(graph_module, target, nodes[0], traced)
            changed = True
    return changed


def _traced(module: nn.Module, call: Node) -> GraphModule | None:
    """The graph of a module, or ``None`` where it has to stay one call."""
    theirs = [part for part in module.modules() if not type(part).__module__.startswith("torch.")]
    if not theirs or any(getattr(part, "narfx_leaf", False) for part in theirs):
        return None
    if any(forward_hooks(part) or mentions_training(type(part).forward) for part in theirs):
        return None
    try:
        found: GraphTrace = trace_graph(module, copied=True, inputs=len(call.args))
    except UsageError:
        return None
    graph = found.graph_module.graph
    whole = not found.opaque and not found.notes and not found.drawn
    same = found.graph_module.state_dict().keys() == module.state_dict().keys() and not unused_keys(found.graph_module)
    (output,) = (node for node in graph.nodes if node.op == "output")
    plain = isinstance(output.args[0], Node) and all(
        part is found.graph_module or type(part) is nn.Module or type(part).__module__.startswith("torch.")
        for part in found.graph_module.modules()
    )
    return found.graph_module if whole and same and plain else None


def _splice(graph_module: GraphModule, target: str, call: Node, inner: GraphModule) -> None:
    copies: dict[Node, Node] = {}
    given = iter(call.args)
    graph = graph_module.graph
    with graph.inserting_before(call):
        for node in inner.graph.nodes:
            if node.op == "placeholder":
                # Placeholders of optional arguments have their defaults in the graph.
                value = next(given, None)
                if isinstance(value, Node):
                    copies[node] = value
            elif node.op == "output":
                call.replace_all_uses_with(copies[node.args[0]])
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                if node.op in ("call_module", "get_attr"):
                    copies[node].target = f"{target}.{node.target}"
    graph.erase_node(call)
    mode = graph_module.get_submodule(target).training
    plain = nn.Module()
    for kind in ("_modules", "_parameters", "_buffers"):
        plain.__dict__[kind].update(inner.__dict__[kind])
    plain._non_persistent_buffers_set |= inner._non_persistent_buffers_set
    if any(plain.__dict__[kind] for kind in ("_modules", "_parameters", "_buffers")):
        put_module(graph_module, target, plain.train(mode))
    else:  # it had nothing but a forward
        parent, _, name = target.rpartition(".")
        del graph_module.get_submodule(parent)._modules[name]
