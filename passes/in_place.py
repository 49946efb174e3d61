"""Which nodes change a tensor in place, and which give a tensor that shares its values with their input."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import nn
from torch.fx import GraphModule, Node

from narfx.operators.dispatch import Dispatch

__all__ = ["changed_safely", "changes", "is_in_place", "origin", "relatives"]

_IN_PLACE = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.ipow,
    operator.iand, operator.ior, operator.ixor, operator.setitem,
}  # fmt: skip
_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Flatten)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # a site's, one for each operator: their output is new
_VIEWS = {
    "view", "view_as", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "expand", "narrow",
    "chunk", "split", "detach", "contiguous", "to", "float", "getitem", "dropout", "unbind", "select",
}  # fmt: skip


def is_in_place(graph_module: GraphModule, node: Node) -> bool:
    """Whether a node changes its first argument."""
    if node.op == "call_module":
        return bool(getattr(graph_module.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        out_of_place = not name.endswith("_") or name.endswith("__")
        return node.target in _IN_PLACE or not out_of_place or bool(node.kwargs.get("inplace")) or "out" in node.kwargs
    return False


def _shares(graph_module: GraphModule, node: Node) -> bool:
    """Whether the output of a node may share its values with its first argument."""
    if is_in_place(graph_module, node):
        return True
    if node.op == "call_module":
        return isinstance(graph_module.get_submodule(str(node.target)), _SAME)
    return node.op in ("call_method", "call_function") and getattr(node.target, "__name__", node.target) in _VIEWS


def origin(graph_module: GraphModule, node: Node) -> Node:
    """The node whose output a tensor is a view of, or the node itself."""
    while node.all_input_nodes and _shares(graph_module, node):
        node = node.all_input_nodes[0]
    return node


def changes(graph_module: GraphModule, node: Node) -> Iterator[Node]:
    """The nodes that change the output of ``node``, or a view of it, in place."""
    for user in node.users:
        if user.all_input_nodes and user.all_input_nodes[0] is node:
            if is_in_place(graph_module, user):
                yield user
            if _shares(graph_module, user):
                yield from changes(graph_module, user)


def relatives(graph_module: GraphModule) -> dict[Node, frozenset[Node]]:
    """By node that changes its input: the others whose values may share memory with that input, but do not follow."""
    together = _groups(graph_module)
    found = {}
    for node in graph_module.graph.nodes:
        if is_in_place(graph_module, node):
            after = _after(node, together[node])
            found[node] = frozenset(other for other in together[node] if other not in after)
    return found


def changed_safely(graph_module: GraphModule) -> bool:
    """Whether whoever reads a tensor after a node has changed it reads that node's own output.

    Then the change may be made to a copy. ``False`` too where a weight is changed, or a tensor is given for the output.
    """
    position = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    for node, others in relatives(graph_module).items():
        if "out" in node.kwargs or any(other.op == "get_attr" for other in others):
            return False
        if any(position[user] > position[node] for other in others for user in other.users):
            return False
    return True


def _after(node: Node, group: set[Node]) -> set[Node]:
    """The node, and those of its group that follow from it."""
    found = {node}
    for other in sorted(group):
        if other not in found and found.intersection(other.all_input_nodes):
            found.add(other)
    return found


def _groups(graph_module: GraphModule) -> dict[Node, set[Node]]:
    """For each node those whose values may share memory with its own; what is not known may share with its inputs."""
    together: dict[Node, set[Node]] = {}
    for node in graph_module.graph.nodes:
        together[node] = {node}
        first = node.all_input_nodes[:1] if _shares(graph_module, node) else []
        for other in node.all_input_nodes if _is_unknown(graph_module, node) else first:
            merged = together[node] | together[other]
            for member in merged:
                together[member] = merged
    return together


def _is_unknown(graph_module: GraphModule, node: Node) -> bool:
    """Whether nothing is known of the module or function that a node calls."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        norms = isinstance(module, Dispatch) and all(type(norm) in _NORMS for norm in module.candidates.values())
        home = "torch" if norms else type(module).__module__
    elif node.op == "call_function":
        home = getattr(node.target, "__module__", None) or "torch"
    else:
        return False
    return home.partition(".")[0] not in ("torch", "_operator", "builtins", "operator", "math")
