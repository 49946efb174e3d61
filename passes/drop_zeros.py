"""Take the zeros of a lowered network away: where nothing stands at a site, nothing is computed for it.

A sum loses the operands that are zeros. That is exact where the other operand has the shape of the sum; what only the
zeros read goes too, with its modules. Zeros pass through an activation that keeps them, a pool and a dropout. Where
something else reads them (a concatenation, a convolution), they are made by one call without arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from narfx.graph.cost import run_shapes
from narfx.graph.nodes import remove_module
from narfx.operators.declared import Zeros
from narfx.passes.in_place import changes, is_in_place, origin

__all__ = ["drop_zeros"]

Shapes = Mapping[Node, tuple[int, ...]]

_ADDS = {operator.add, operator.iadd, torch.add}
_KEEP = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Identity, nn.Dropout,
    nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
)  # fmt: skip
_KEEP_CALLS = {"relu", "relu_", "dropout", "unsqueeze", "squeeze", "flatten", "neg", "contiguous"}


def drop_zeros(graph_module: GraphModule) -> bool:
    """Remove the :class:`Zeros` of a graph in place; whether there were any. The caller lints and recompiles."""
    calls = [node for node in graph_module.graph.nodes if isinstance(_module(graph_module, node), Zeros)]
    if not calls:
        return False
    shapes = _shapes(graph_module)
    zeros: set[Node] = set()
    for node in list(graph_module.graph.nodes):
        if node in calls or _keeps(graph_module, node, zeros):
            if not _is_filled(graph_module, node):
                zeros.add(node)
        elif (operands := _operands(node)) is not None:
            _drop_operand(graph_module, node, operands, zeros, shapes)
        elif _is_sum_of_stack(node):
            _drop_stacked(node, zeros)
    for node in reversed(list(graph_module.graph.nodes)):
        if node in zeros and not node.users:
            _erase(graph_module, node)
    for node in calls:
        if not node._erased:
            _write(graph_module, node)
    return True


def _module(graph_module: GraphModule, node: Node) -> nn.Module | None:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _shapes(graph_module: GraphModule) -> Shapes:
    """The shapes of one sample, as far as the graph runs; where one is not known, the zeros stay."""
    shape = graph_module.meta.get("input_shape")
    return {} if shape is None else run_shapes(graph_module, shape, "meta", batch=1)[0]


def _keeps(graph_module: GraphModule, node: Node, zeros: set[Node]) -> bool:
    """Whether a node gives zeros because its only input is zeros."""
    if len(node.all_input_nodes) != 1 or node.all_input_nodes[0] not in zeros:
        return False
    if node.op == "call_module":
        return isinstance(_module(graph_module, node), _KEEP)
    name = getattr(node.target, "__name__", node.target)
    return node.op in ("call_function", "call_method") and name in _KEEP_CALLS


def _is_filled(graph_module: GraphModule, node: Node) -> bool:
    """Whether something is written into the tensor of a node before another one reads it."""
    order = {each: index for index, each in enumerate(graph_module.graph.nodes)}
    last = max((order[user] for user in node.users), default=0)
    return any(order[change] < last for change in changes(graph_module, node))


def _operands(node: Node) -> tuple[Any, Any] | None:
    """The two operands of a plain add."""
    adds = (node.op == "call_function" and node.target in _ADDS) or (
        node.op == "call_method" and node.target in ("add", "add_", "__add__", "__radd__", "__iadd__")
    )
    given = [*node.args, *(value for key, value in node.kwargs.items() if key in ("input", "other"))]
    plain = adds and len(given) == 2 and node.kwargs.get("alpha", 1) == 1 and "out" not in node.kwargs
    return (given[0], given[1]) if plain else None


def _drop_operand(
    graph_module: GraphModule, node: Node, operands: tuple[Any, Any], zeros: set[Node], shapes: Shapes
) -> None:
    empty = [isinstance(o, Node) and o in zeros for o in operands]
    if not any(empty):
        return
    other = operands[1 - empty.index(True)]
    if all(empty) or (type(other) in (int, float) and other == 0):
        zeros.add(node)
        same = operands[empty.index(True)]
        if _fits(shapes, same, node) and not _is_changed(graph_module, node, same):
            node.replace_all_uses_with(same)
        return
    if not isinstance(other, Node) or not _fits(shapes, other, node):
        return
    if not (is_in_place(graph_module, node) and other is operands[0]) and _is_changed(graph_module, node, other):
        # What changes the sum in place must not change what else reads the other operand.
        with graph_module.graph.inserting_before(node):
            copied = graph_module.graph.call_method("clone", (other,))
        copied.meta, other = dict(node.meta), copied
    node.replace_all_uses_with(other)
    graph_module.graph.erase_node(node)


def _fits(shapes: Shapes, part: Node, whole: Node) -> bool:
    """Whether an operand has the shape of the sum, so that nothing was broadcast."""
    return shapes.get(part) is not None and shapes.get(part) == shapes.get(whole)


def _is_changed(graph_module: GraphModule, node: Node, other: Node) -> bool:
    found = (*changes(graph_module, node), *changes(graph_module, origin(graph_module, other)))
    order = {each: index for index, each in enumerate(graph_module.graph.nodes)}
    return any(order[change] > order[node] for change in found)


def _is_sum_of_stack(node: Node) -> bool:
    """Whether a node sums a stack over the axis along which it was stacked, and is its only reader."""
    sums = (node.op == "call_function" and node.target is torch.sum) or (
        node.op == "call_method" and node.target == "sum"
    )
    source = node.args[0] if sums and node.args else None
    if not isinstance(source, Node) or source.op != "call_function" or source.target is not torch.stack:
        return False
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    axis = axis[0] if isinstance(axis, (tuple, list)) and len(axis) == 1 else axis
    stacked = source.args[1] if len(source.args) > 1 else source.kwargs.get("dim", 0)
    plain = set(node.kwargs) <= {"dim"} and len(node.args) < 3 and set(source.kwargs) <= {"dim"}
    return plain and isinstance(axis, int) and axis == stacked and len(source.users) == 1


def _drop_stacked(node: Node, zeros: set[Node]) -> None:
    stack = node.args[0]
    assert isinstance(stack, Node)
    stacked = stack.args[0] if stack.args else None
    if isinstance(stacked, (list, tuple)):
        kept = [entry for entry in stacked if entry not in zeros]
        if not kept:
            zeros.add(stack)
            zeros.add(node)
        elif len(kept) < len(stacked):
            stack.args = (kept, *stack.args[1:])


def _erase(graph_module: GraphModule, node: Node) -> None:
    """Erase a node that nothing reads, and before it what only it has read, with the modules that are not called."""
    waiting = [node]
    while waiting:
        dead = waiting.pop()
        if dead._erased or dead.users or dead.op in ("placeholder", "output"):
            continue
        if dead is not node and is_in_place(graph_module, dead):
            continue
        before = dead.all_input_nodes
        graph_module.graph.erase_node(dead)
        target = str(dead.target)
        if dead.op == "call_module" and not any(_uses(other, target) for other in graph_module.graph.nodes):
            remove_module(graph_module, target)
        waiting += before


def _uses(node: Node, target: str) -> bool:
    return node.op in ("call_module", "get_attr") and f"{node.target}.".startswith(f"{target}.")


def _write(graph_module: GraphModule, call: Node) -> None:
    """The zeros that something still reads, as a call that needs no class of narfx."""
    module = _module(graph_module, call)
    assert isinstance(module, Zeros)
    graph, source = graph_module.graph, call.all_input_nodes[0]
    with graph.inserting_before(call):
        if module.stride is None:
            size = graph.call_method("size", (source, 0))
            made = graph.call_method("new_zeros", (source, (size, *module.output_shape)))
        else:
            whole = slice(None)
            steps = (whole, whole, *[slice(None, None, module.stride)] * 2)
            cut = source if module.stride == 1 else graph.call_function(operator.getitem, (source, steps))
            made = graph.call_function(torch.zeros_like, (cut,))
    made.meta = dict(call.meta)
    call.replace_all_uses_with(made)
    target = str(call.target)
    graph.erase_node(call)
    if not any(_uses(other, target) for other in graph.nodes):
        remove_module(graph_module, target)
