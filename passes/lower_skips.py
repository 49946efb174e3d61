"""The gates of a supernet as plain adds: what is open stands in the graph, what is closed is gone.

The base's own skips are written as the base wrote them, at its place and with its names, so that with the base's skips
the graph is the base's. A new skip that needs a projection has it at ``skips.T_J.conv`` and ``skips.T_J.norm``.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node

from narfx.graph.nodes import free_name, remove_module
from narfx.operators.dispatch import Shortcut, SkipGate

__all__ = ["closed", "lower_skips"]

Pair = tuple[int, int]


def closed(gate: Shortcut | SkipGate, opened: Collection[Pair]) -> list[nn.Module]:
    """The modules that a gate or shortcut holds for what is closed, where these skips are open."""
    if isinstance(gate, Shortcut):
        return [] if gate.pair in opened else [gate.branch]
    found = [gate.projection(pair) for pair in gate.pairs if pair not in opened]
    return [module for module in found if module is not None]


def lower_skips(graph_module: GraphModule, opened: Collection[Pair]) -> None:
    """Take the gates out of a graph in place, with these skips (t, j) open; the caller lints and recompiles."""
    modules = dict(graph_module.named_modules())
    homes: dict[str, None] = {}
    home = free_name(graph_module, "skips")
    for node in list(graph_module.graph.nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Shortcut):
            _place_shortcut(graph_module, node, module, module.pair in opened)
        elif isinstance(module, SkipGate):
            _place_skips(graph_module, node, module, home, opened)
        else:
            continue
        homes[str(node.target).partition(".")[0]] = None
    for name in homes:
        graph_module.delete_submodule(name)


def _place_shortcut(graph_module: GraphModule, call: Node, shortcut: Shortcut, opened: bool) -> None:
    """The nodes of an open shortcut in the place of its call; a closed one loses its modules.

    The call of a closed one goes with the gate that reads it.
    """
    branch = shortcut.branch
    assert isinstance(branch, GraphModule)
    if not opened:
        for target in dict.fromkeys(str(node.target) for node in branch.graph.nodes if node.op == "call_module"):
            remove_module(graph_module, target)
        return
    copies: dict[Node, Node] = {}
    with graph_module.graph.inserting_before(call):
        for node in branch.graph.nodes:
            if node.op == "placeholder":
                (copies[node],) = call.all_input_nodes
            elif node.op == "output":
                call.replace_all_uses_with(copies[node.all_input_nodes[0]])
            else:
                copies[node] = graph_module.graph.node_copy(node, copies.__getitem__)
    graph_module.graph.erase_node(call)


def _place_skips(
    graph_module: GraphModule, node: Node, gate: SkipGate, home: str, opened: Collection[Pair]
) -> None:  # fmt: skip
    graph = graph_module.graph
    total, *sources = node.args
    assert isinstance(total, Node)
    with graph.inserting_before(node):
        for pair, source in zip(gate.pairs, sources, strict=True):
            if pair not in opened:
                continue
            assert isinstance(source, Node)
            if pair in gate.base and gate.add is not None:
                op, target, swapped, name, keywords = gate.add
                operands = (source, total) if swapped else (total, source)
                given = len(operands) - len(keywords)
                named: dict[str, Any] = dict(zip(keywords, operands[given:], strict=True))
                total = graph.create_node(op, target, operands[:given], named, name=name, type_expr=node.type)
            else:
                projection = gate.projection(pair)
                if projection is not None:
                    for part, module in projection.named_children():
                        path = f"{home}.{pair[0]}_{pair[1]}.{part}"
                        _put(graph_module, path, module)
                        source = graph.call_module(path, (source,))
                        source.meta = dict(node.meta)
                total = graph.call_function(operator.add, (total, source))
            total.meta = dict(node.meta)
    node.replace_all_uses_with(total)
    graph.erase_node(node)
    for source in sources:
        if isinstance(source, Node) and not source.users and isinstance(_called(graph_module, source), Shortcut):
            graph.erase_node(source)


def _called(graph_module: GraphModule, node: Node) -> nn.Module | None:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _put(graph_module: GraphModule, path: str, module: nn.Module) -> None:
    """Place a module; the containers made on the way are in the graph's mode."""
    *parents, name = path.split(".")
    around: nn.Module = graph_module
    for parent in parents:
        if not hasattr(around, parent):
            around.add_module(parent, nn.Module().train(graph_module.training))
        around = getattr(around, parent)
    around.add_module(name, module)
