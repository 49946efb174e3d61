"""Convolutions that a model writes as ``torch.nn.functional.conv2d``: which can be modules, and making them so.

A call whose weight (and bias) is a parameter of the model, read as it is, computes what an ``nn.Conv2d`` with that
parameter computes. Lifting puts such a module beside the parameter, which both then hold, and calls it; restoring
makes the original call again where the module is still that convolution, and where an operator took its place drops
the parameter that nothing reads any more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate, map_arg

from narfx.passes.base import Pass, free_name

__all__ = ["FunctionalConv", "LiftFunctional", "RestoreFunctional", "read_functional"]

_LIFTED = "narfx_lifted"
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class _Read:
    """A node in the arguments of a call that was lifted: the path of a parameter, or none for the input."""

    path: str
    name: str
    stack_trace: str | None = None


@dataclass(frozen=True)
class FunctionalConv:
    """What one call of ``conv2d`` says: the paths of its parameters, its geometry, and where its module would be."""

    target: str
    weight: str
    bias: str | None
    options: tuple[tuple[str, Any], ...]

    def module(self, graph_module: GraphModule) -> nn.Conv2d:
        """The convolution around the model's own parameters."""
        weight = _parameter(graph_module, self.weight)
        assert weight is not None
        outputs, inputs, height, width = weight.shape
        options = dict(self.options)
        with torch.device("meta"):
            conv = nn.Conv2d(
                inputs * options["groups"], outputs, (height, width), bias=self.bias is not None, **options
            )
        conv.weight = weight
        if self.bias is not None:
            conv.bias = _parameter(graph_module, self.bias)
        return conv.train(graph_module.training)


def read_functional(graph_module: GraphModule) -> dict[Node, FunctionalConv | str]:
    """Each call of ``conv2d`` that can be a module, and for each other one the reason why not.

    Calls with the same parameters and the same geometry are one module, called several times.
    """
    found: dict[Node, FunctionalConv | str] = {}
    targets: dict[tuple[Any, ...], str] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node.target in (torch.conv2d, nn.functional.conv2d):
            found[node] = _read(graph_module, node, targets)
    reads = _reads(graph_module)
    refused: dict[Node, FunctionalConv | str] = {}
    for node, conv in found.items():
        if isinstance(conv, FunctionalConv):
            # A parameter with two geometries, or that something else reads, would not follow a swap.
            readers = (read for path in (conv.weight, conv.bias) for read in reads.get(path, ()))
            others = [str(user) for read in readers for user in read.users if found.get(user) != conv]
            if others:
                refused[node] = f"{conv.weight} is used by {min(others)} too, which a swap would not reach"
    return found | refused


def _read(graph_module: GraphModule, node: Node, targets: dict[tuple[Any, ...], str]) -> FunctionalConv | str:
    values: dict[str, Any] = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    weight, bias = values.get("weight"), values.get("bias")
    if not isinstance(values.get("input"), Node):
        return "its input is no tensor of the graph"
    for name, value in (("weight", weight), ("bias", bias)):
        if name == "weight" or value is not None:
            if not isinstance(value, Node) or value.op != "get_attr":
                return f"its {name} is computed, not a parameter read as it is"
            if _parameter(graph_module, str(value.target)) is None:
                return f"its {name} {value.target} is not a parameter"
    options = []
    for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)):
        value = values.get(name, default)
        value = tuple(value) * (3 - len(value)) if isinstance(value, (list, tuple)) else value  # (1,) is (1, 1)
        parts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(part, Node) for part in parts):
            return f"its {name} is computed"
        options.append((name, value))
    assert isinstance(weight, Node)
    path = str(weight.target)
    key = (path, str(bias.target) if bias is not None else None, tuple(options))
    if key not in targets:
        owner, _, attribute = path.rpartition(".")
        targets[key] = free_name(graph_module, f"{attribute}_conv", owner)
    return FunctionalConv(targets[key], *key)


def _parameter(graph_module: GraphModule, path: str) -> nn.Parameter | None:
    owner, _, attribute = path.rpartition(".")
    return graph_module.get_submodule(owner)._parameters.get(attribute)


def _reads(graph_module: GraphModule) -> dict[str | None, list[Node]]:
    """The nodes that read each attribute of the model."""
    reads: dict[str | None, list[Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            reads.setdefault(str(node.target), []).append(node)
    return reads


class LiftFunctional(Pass):
    """In place. ``targets`` are those of the calls to lift, as ``read_functional`` names them."""

    in_place: ClassVar[bool] = True

    def __init__(self, targets: Collection[str]) -> None:
        self.targets = frozenset(targets)

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Replace the calls by calls of modules that hold the same parameters."""
        lifted = {
            node: conv
            for node, conv in read_functional(graph_module).items()
            if isinstance(conv, FunctionalConv) and conv.target in self.targets
        }
        graph = graph_module.graph
        for conv in dict.fromkeys(lifted.values()):
            module = conv.module(graph_module)
            setattr(module, _LIFTED, True)
            graph_module.add_submodule(conv.target, module)
        for node, conv in lifted.items():
            source = node.args[0] if node.args else node.kwargs["input"]
            reads = list(node.all_input_nodes)
            node.meta[_LIFTED] = (conv, node.target, _frozen(node.args), _frozen(node.kwargs))
            # The node itself goes on to call the module, so that its name, place and line stay.
            node.args, node.kwargs = (source,), {}
            node.op, node.target = "call_module", conv.target
            for read in reads:
                if read.op == "get_attr" and not read.users:
                    graph.erase_node(read)
        return graph_module, bool(lifted)


class RestoreFunctional(Pass):
    """In place. Undo the lifting where the module is still the convolution; drop what nothing reads any more."""

    in_place: ClassVar[bool] = True

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Write the original calls again, and delete the parameters of those that an operator replaced."""
        graph = graph_module.graph
        lifted = [node for node in graph.nodes if _LIFTED in node.meta]
        restored, replaced = set[str](), dict[str, FunctionalConv]()
        read: dict[str, Node] = {}
        taken = {node.name for node in graph.nodes}
        for node in lifted:
            conv, function, args, kwargs = node.meta.pop(_LIFTED)
            module = graph_module.get_submodule(conv.target)
            if not getattr(module, _LIFTED, False):
                replaced[conv.target] = conv
                continue
            for path, parameter in ((conv.weight, module.weight), (conv.bias, module.bias)):
                if path is not None:  # the same parameter, unless someone has assigned others to the module
                    owner, _, attribute = path.rpartition(".")
                    setattr(graph_module.get_submodule(owner), attribute, parameter)
            restored.add(conv.target)
            source = node.args[0]
            with graph.inserting_before(node):
                args, kwargs = (_thawed(given, source, graph, read, taken) for given in (args, kwargs))
            node.op, node.target = "call_function", function
            node.args, node.kwargs = args, kwargs
        for target in restored:
            graph_module.delete_submodule(target)
        reads = _reads(graph_module)
        for conv in replaced.values():
            for path in (conv.weight, conv.bias):
                owner, _, attribute = (path or "").rpartition(".")
                home = graph_module.get_submodule(owner)
                if path is not None and attribute in home._parameters and path not in reads:
                    delattr(home, attribute)
        return graph_module, bool(lifted)


def _frozen(arguments: Any) -> Any:
    """The arguments of a call without nodes, which belong to one graph and would not survive its copy."""

    def freeze(node: Node) -> Any:
        return _Read(str(node.target), node.name, node.stack_trace) if node.op == "get_attr" else _Read("", "")

    return map_arg(arguments, freeze)


def _thawed(arguments: Any, source: Any, graph: Graph, read: dict[str, Node], taken: set[str]) -> Any:
    """The arguments again; ``read`` holds the nodes made so far that read a parameter, ``taken`` all nodes' names."""

    def thaw(argument: Any) -> Any:
        if not isinstance(argument, _Read):
            return argument
        if not argument.path:
            return source
        if argument.path not in read:
            node = read[argument.path] = graph.create_node("get_attr", argument.path, name=argument.name)
            node.stack_trace = argument.stack_trace
            if argument.name not in taken:
                node.name = argument.name  # torch gives no name out twice, not even that of a node that was erased
            taken.add(node.name)
        return read[argument.path]

    return map_aggregate(arguments, thaw)
