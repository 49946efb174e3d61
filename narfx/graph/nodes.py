"""Small functions on the nodes and modules of a graph, used by several packages."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from narfx.graph.source import is_model_code

__all__ = ["call_targets", "free_name", "is_kernel", "pair", "put_module", "remove_module", "source_line", "tensors"]

M = TypeVar("M", bound=nn.Module)


def tensors(output: Any) -> list[Tensor]:
    """The tensors in a network's output (a tensor, or tuples, lists and dictionaries of them), in a fixed order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def free_name(graph_module: GraphModule, name: str, owner: str = "") -> str:
    """A free attribute path in the submodule ``owner``: ``name``, or else ``name_1``, ``name_2``, ..."""
    home = graph_module.get_submodule(owner)
    tried, count = name, 0
    while hasattr(home, tried):
        count += 1
        tried = f"{name}_{count}"
    return f"{owner}.{tried}" if owner else tried


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of a geometry option such as ``stride``, which may be one number for both axes."""
    first, *rest = value if isinstance(value, (tuple, list)) else (value,)
    return int(first), int(rest[0] if rest else first)


def source_line(node: Node) -> str:
    """``file:line`` of the model's code that made a node; empty if the trace did not record it."""
    own = ""
    for line in (node.stack_trace or "").splitlines():
        head, _, rest = line.strip().partition('", line ')
        if head.startswith('File "') and is_model_code(head[6:]):
            own = f"{head[6:]}:{rest.split(',')[0]}"
    return own


def call_targets(graph_module: GraphModule) -> dict[str, list[Node]]:
    """The nodes that call each module, in graph order."""
    targets: dict[str, list[Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            targets.setdefault(str(node.target), []).append(node)
    return targets


def is_kernel(parameter: nn.Parameter) -> bool:
    """Whether a parameter may be a convolution's weight; a channel scale (1, C, 1, 1) is not."""
    shape = parameter.shape
    return len(shape) == 4 and not (shape[0] == 1 and shape[2:] == (1, 1))


def put_module(graph_module: nn.Module, target: str, module: nn.Module) -> None:
    """Put a module in the place of the one at ``target``."""
    parent, _, name = target.rpartition(".")
    setattr(graph_module.get_submodule(parent), name, module)


def remove_module(graph_module: nn.Module, target: str) -> None:
    """Take a module away, and the containers around it that are empty then."""
    while target:
        parent, _, name = target.rpartition(".")
        del graph_module.get_submodule(parent)._modules[name]
        target = target.rpartition(".")[0]
        around = graph_module.get_submodule(target)
        if type(around) is not nn.Module or any(True for _ in around.children()) or around.state_dict():
            return
