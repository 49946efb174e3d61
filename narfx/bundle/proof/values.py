"""The values inside an ONNX file, and the graph of the network to compare them with."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from narfx.bundle.onnx.marks import MARK
from narfx.bundle.onnx.parts import Parts
from narfx.graph.copying import copy_structure
from narfx.graph.proxies import Proxy
from narfx.support.onnx_session import open_session, run_session

__all__ = [
    "Value",
    "graph_of",
    "mark_of",
    "marked_values",
    "node_values",
    "run_file",
    "values_before",
    "weights_of",
]

_CUT = ".cut"  # suffix of the extra input that replaces a value for its readers


@dataclass(frozen=True)
class Value:
    """A value of the file: the node that computes it, that node's inputs and weights, and its numbers."""

    name: str
    node: str
    mark: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    number: np.ndarray


def mark_of(node: Any) -> str:
    """The mark of an ONNX node: the key of the network's node whose value it computes, or an empty string."""
    return next((property.value for property in node.metadata_props if property.key == MARK), "")


def marked_values(model: Any) -> dict[str, str]:
    """The name of each marked value by its mark."""
    return {mark: node.output[0] for node in model.graph.node if (mark := mark_of(node)) and node.output}


def run_file(
    parts: Parts, images: Tensor, *, cuts: Mapping[str, np.ndarray] | None = None, wanted: Collection[str] | None = None
) -> list[Value]:
    """The values that the file's nodes compute from ``images``, in the file's order.

    onnxruntime runs the file without its own optimisations.

    Args:
        parts: The ONNX model.
        images: (N, C, H, W); H and W may be others than those that the file states.
        cuts: Replacements by value name: the readers of the value get the replacement; the value is still computed.
        wanted: The names of the values to return; default: all floating-point values.
    """
    import onnx

    told = copy.deepcopy(parts.model)
    values = [value for value in node_values(parts) if wanted is None or value.name in wanted]
    _size(told.graph, images.shape)
    outputs = {value.name for value in told.graph.output}
    told.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in values if value.name not in outputs)
    _cut(told, cuts or {})
    session = open_session(told.SerializeToString(), optimise=False)
    feeds = {f"{name}{_CUT}": number for name, number in (cuts or {}).items()} | dict(parts.weights)
    feeds[told.graph.input[0].name] = images.numpy()
    numbers = run_session(session, [value.name for value in values], feeds) if values else []
    return [
        replace(value, number=number)
        for value, number in zip(values, numbers, strict=True)
        if isinstance(number, np.ndarray) and (wanted is not None or number.dtype.kind == "f")
    ]


def _size(graph: Any, shape: Sequence[int]) -> None:
    """State the size of these images instead of the file's, and no size of what is computed from them."""
    del graph.value_info[:]
    for dim, size in zip(graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def _cut(model: Any, cuts: Mapping[str, np.ndarray]) -> None:
    import onnx

    for node in _nodes(model.graph):
        for index, name in enumerate(node.input):
            if name in cuts:
                node.input[index] = f"{name}{_CUT}"
    for name, number in cuts.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(number.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(f"{name}{_CUT}", kind, number.shape))


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of its subgraphs (the branches of If and Loop)."""
    for node in graph.node:
        yield from _with_inner(node)


def node_values(parts: Parts) -> list[Value]:
    """The values that the file's nodes compute; ``number`` is empty."""
    weights = {tensor.name for tensor in parts.model.graph.initializer} | parts.weights.keys()
    return [
        Value(name, node.name, mark_of(node), *_inputs(node, weights), np.empty(0))
        for node in parts.model.graph.node
        for name in node.output
        if name
    ]


def values_before(model: Any, name: str, stops: Collection[str]) -> set[str]:
    """The names among ``stops`` that a value of the file is computed from, without those that are before them."""
    made = {output: node for node in model.graph.node for output in node.output}
    found, seen, waiting = set[str](), {name}, [name]
    while waiting:
        node = made.get(waiting.pop())
        reads = {read for inner in _with_inner(node) for read in inner.input} if node is not None else set[str]()
        found |= reads & set(stops)
        waiting += reads - set(stops) - seen
        seen |= reads
    return found


def _with_inner(node: Any) -> Iterator[Any]:
    """A node and those inside of its branches."""
    yield node
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            yield from _nodes(inner)


def _inputs(node: Any, weights: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of all inputs of a node, and of the weights among them."""
    return tuple(node.input), tuple(name for name in node.input if name in weights)


def weights_of(value: Value, values: Sequence[Value]) -> tuple[str, ...]:
    """The weights of a marked node, and of the unmarked ones before it that compute parts of its value."""
    by_name = {other.name: other for other in values if value.mark and not other.mark} | {value.name: value}
    found: dict[str, None] = {}
    waiting = [value.name]
    while waiting:
        part = by_name.pop(waiting.pop(), None)
        if part is not None:
            found |= dict.fromkeys(part.weights)
            waiting += part.inputs
    return tuple(found)


def graph_of(network: nn.Module, model: Any) -> tuple[nn.Module, fx.Graph]:
    """A copy in eval mode, with the same parameters, and its graph.

    A network that is not a GraphModule is traced; the modules that the file's marks name stay leaves.
    """
    root = copy_structure(network)
    root.eval()
    if isinstance(root, fx.GraphModule):
        return root, root.graph
    # Do not make a GraphModule of this graph: its code would wrap torch's assertions and break later traces.
    marks = (mark_of(node) for node in model.graph.node)
    return root, _Tracer(frozenset(mark.partition("@")[0] for mark in marks)).trace(root)


class _Tracer(fx.Tracer):
    record_stack_traces = True
    proxy_buffer_attributes = True

    def __init__(self, leaves: frozenset[str]) -> None:
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)
