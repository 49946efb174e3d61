"""Replace calls of ``torch.nn.functional.conv2d`` by modules, and undo that.

A call whose weight and bias are unchanged parameters of the model computes the same as an ``nn.Conv2d`` with these
parameters. Lifting adds such a module next to the parameter, which both share, and calls it. Restoring writes the
original call again if the module is still that convolution; if an operator replaced it, the parameter that nothing
reads any more is deleted. The module stores the original calls, because ``node.meta`` is lost in a pickle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate, map_arg

from narfx.graph.nodes import free_name
from narfx.operators.dispatch import Dispatch
from narfx.passes.base import Pass

__all__ = [
    "FunctionalConv",
    "LiftFunctional",
    "Lifted",
    "RestoreFunctional",
    "keep_lifted",
    "lifted_calls",
    "read_functional",
]

_LIFTED = "narfx_lifted"
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class _Read:
    """A node in the arguments of a lifted call: the path of a parameter, or an empty path for the input."""

    path: str
    name: str
    type: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        # Other entries of meta may not pickle, and fx does not pickle a node's meta itself.
        return {**vars(self), "meta": {key: text for key, text in self.meta.items() if key == "stack_trace"}}


@dataclass(frozen=True)
class FunctionalConv:
    """A call of ``conv2d`` that can be a module.

    Attributes:
        target: The path of the module.
        weight: The path of its weight.
        bias: The path of its bias, if any.
        options: stride, padding, dilation and groups, as (name, value) pairs.
    """

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


@dataclass(frozen=True)
class _Call:
    """One call as the model wrote it, without nodes; ``name`` is the name of its node."""

    name: str
    function: Any
    args: Any
    kwargs: Any


@dataclass(frozen=True)
class Lifted:
    """The origin of a lifted module: its convolution, and its calls in graph order."""

    conv: FunctionalConv
    calls: tuple[_Call, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> Lifted:
        return self  # it is immutable

    def call_of(self, node: Node, index: int) -> _Call:
        """The original call of a node; found by name, or by index, because a pickled graph may have other names."""
        named = [call for call in self.calls if call.name == node.name]
        return named[0] if named else self.calls[min(index, len(self.calls) - 1)]


def lifted_calls(graph_module: GraphModule) -> dict[str, Lifted]:
    """The origins of all lifted modules of a graph, by target; also inside a dispatch node."""
    found = {}
    for target in dict.fromkeys(str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"):
        module = graph_module.get_submodule(target)
        record = getattr(module, _LIFTED, None)
        if record is not None:
            found[target] = record
    return found


def keep_lifted(graph_module: GraphModule, conv: nn.Module, dispatch: Dispatch) -> None:
    """Note at a dispatch node what its convolution was lifted from; the parameters go where the base is not legal."""
    record: Lifted | None = getattr(conv, _LIFTED, None)
    if record is None:
        return
    setattr(dispatch, _LIFTED, record)
    if "base" not in dispatch.candidates:
        _drop(graph_module, record.conv)


def read_functional(graph_module: GraphModule) -> dict[Node, FunctionalConv | str]:
    """Each call of ``conv2d`` with its module, or the reason why it cannot be a module.

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
            # A parameter that is used with another geometry, or read elsewhere, would not follow a swap.
            readers = (read for path in (conv.weight, conv.bias) for read in reads.get(path, ()))
            others = [str(user) for read in readers for user in read.users if found.get(user) != conv]
            if others:
                refused[node] = f"{conv.weight} is also used by {min(others)}, which a swap would not change"
    return found | refused


def _read(graph_module: GraphModule, node: Node, targets: dict[tuple[Any, ...], str]) -> FunctionalConv | str:
    values: dict[str, Any] = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    weight, bias = values.get("weight"), values.get("bias")
    if not isinstance(values.get("input"), Node):
        return "its input is not a tensor of the graph"
    for name, value in (("weight", weight), ("bias", bias)):
        if name == "weight" or value is not None:
            if not isinstance(value, Node) or value.op != "get_attr":
                return f"its {name} is computed, not a parameter"
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
    """The nodes that read each attribute of the model, by path."""
    reads: dict[str | None, list[Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            reads.setdefault(str(node.target), []).append(node)
    return reads


class LiftFunctional(Pass):
    """Replace functional convolutions by modules, in place; ``targets`` as :func:`read_functional` names them."""

    in_place: ClassVar[bool] = True

    def __init__(self, targets: Collection[str]) -> None:
        self.targets = frozenset(targets)

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Replace the calls by calls of modules that share the same parameters."""
        lifted = {
            node: conv
            for node, conv in read_functional(graph_module).items()
            if isinstance(conv, FunctionalConv) and conv.target in self.targets
        }
        graph = graph_module.graph
        calls: dict[FunctionalConv, list[_Call]] = {}
        for node, conv in lifted.items():
            call = _Call(node.name, node.target, _frozen(node.args), _frozen(node.kwargs))
            calls.setdefault(conv, []).append(call)
        for conv, made in calls.items():
            module = conv.module(graph_module)
            setattr(module, _LIFTED, Lifted(conv, tuple(made)))
            graph_module.add_submodule(conv.target, module)
        for node, conv in lifted.items():
            source = node.args[0] if node.args else node.kwargs["input"]
            reads = list(node.all_input_nodes)
            # The same node calls the module, so its name, place and source line stay.
            node.args, node.kwargs = (source,), {}
            node.op, node.target = "call_module", conv.target
            for read in reads:
                if read.op == "get_attr" and not read.users:
                    graph.erase_node(read)
        return graph_module, bool(lifted)


class RestoreFunctional(Pass):
    """Undo :class:`LiftFunctional`, in place, where the module is still the convolution; delete unused parameters.

    ``lifted`` holds the origins by target, for graphs in which other modules may have replaced the convolutions; by
    default they are read from the modules of the graph.
    """

    in_place: ClassVar[bool] = True

    def __init__(self, lifted: Mapping[str, Lifted] | None = None) -> None:
        self.lifted = lifted

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Write the original calls again, and delete the parameters of calls that an operator replaced."""
        graph = graph_module.graph
        lifted = lifted_calls(graph_module) if self.lifted is None else self.lifted
        calls: dict[str, list[Node]] = {}
        for node in graph.nodes:
            if node.op == "call_module" and node.target in lifted:
                calls.setdefault(str(node.target), []).append(node)
        modified = False
        read: dict[str, Node] = {}
        taken = {node.name for node in graph.nodes}
        for target, nodes in calls.items():
            module, record = graph_module.get_submodule(target), lifted[target]
            if getattr(module, _LIFTED, None) is None:
                continue
            for path, parameter in ((record.conv.weight, module.weight), (record.conv.bias, module.bias)):
                if path is not None:  # the same parameter, unless another one was assigned to the module
                    owner, _, attribute = path.rpartition(".")
                    setattr(graph_module.get_submodule(owner), attribute, parameter)
            for index, node in enumerate(nodes):
                _restore(node, record.call_of(node, index), read, taken)
            graph_module.delete_submodule(target)
            modified = True
        reads = _reads(graph_module)
        for target in calls:
            modified |= _drop(graph_module, lifted[target].conv, reads)
        return graph_module, modified


def _drop(graph_module: GraphModule, conv: FunctionalConv, reads: Collection[str | None] = ()) -> bool:
    """Delete the parameters of a functional convolution that no node reads; whether there are any."""
    dropped = False
    for path in (conv.weight, conv.bias):
        owner, _, attribute = (path or "").rpartition(".")
        home = graph_module.get_submodule(owner)
        if path is not None and attribute in home._parameters and path not in reads:
            delattr(home, attribute)
            dropped = True
    return dropped


def _restore(node: Node, call: _Call, read: dict[str, Node], taken: set[str]) -> None:
    """Turn a node back into its original call.

    ``read`` holds the nodes made so far that read a parameter, by path; ``taken`` the node names in use.
    """
    graph = node.graph
    (source,) = node.all_input_nodes
    with graph.inserting_before(node):
        args, kwargs = (_thawed(given, source, graph, read, taken) for given in (call.args, call.kwargs))
    node.op, node.target = "call_function", call.function
    node.args, node.kwargs = args, kwargs
    node._rename(call.name)


def _frozen(arguments: Any) -> Any:
    """The arguments of a call with records instead of nodes, because a node belongs to one graph."""

    def freeze(node: Node) -> Any:
        return (
            _Read(str(node.target), node.name, node.type, dict(node.meta)) if node.op == "get_attr" else _Read("", "")
        )

    return map_arg(arguments, freeze)


def _thawed(arguments: Any, source: Any, graph: Graph, read: dict[str, Node], taken: set[str]) -> Any:
    """The arguments of a call with nodes instead of records; the reverse of :func:`_frozen`."""

    def thaw(argument: Any) -> Any:
        if not isinstance(argument, _Read):
            return argument
        if not argument.path:
            return source
        if argument.path not in read:
            node = graph.create_node("get_attr", argument.path, name=argument.name, type_expr=argument.type)
            node.meta = dict(argument.meta)
            if argument.name not in taken:
                node.name = argument.name  # torch never gives out a name twice, even after its node was erased
            taken.add(node.name)
            read[argument.path] = node
        return read[argument.path]

    return map_aggregate(arguments, thaw)
