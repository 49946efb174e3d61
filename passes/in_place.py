"""Which nodes change a tensor in place, and which give a tensor that shares its values with their input."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import nn
from torch.fx import GraphModule, Node

__all__ = ["changes", "is_in_place", "origin"]

_IN_PLACE = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.ipow,
    operator.iand, operator.ior, operator.ixor, operator.setitem,
}  # fmt: skip
_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Flatten)
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
