"""The values inside an ONNX file, and the graph of the network to compare them with."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from narfx.bundle.onnx.marks import MARK
from narfx.graph.copying import copy_module
from narfx.graph.proxies import Proxy
from narfx.support.onnx_session import onnxruntime_module, run_session

__all__ = [
    "Value",
    "graph_of",
    "load_file",
    "mark_of",
    "marked_values",
    "node_values",
    "run_file",
    "values_before",
    "weights_of",
]

_LARGEST_MESSAGE = 2**31 - 2**20  # protobuf's limit, less what the cuts add
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


def load_file(path: Path) -> Any:
    """The ONNX model in a file, with its weights."""
    import onnx

    return onnx.load(str(path))


def mark_of(node: Any) -> str:
    """The mark of an ONNX node: the key of the network's node whose value it computes, or an empty string."""
    return next((property.value for property in node.metadata_props if property.key == MARK), "")


def marked_values(model: Any) -> dict[str, str]:
    """The name of each marked value by its mark."""
    return {mark: node.output[0] for node in model.graph.node if (mark := mark_of(node)) and node.output}


def run_file(
    model: Any, images: Tensor, *, cuts: Mapping[str, np.ndarray] | None = None, wanted: Collection[str] | None = None
) -> list[Value]:
    """The values that the file's nodes compute from ``images``, in the file's order.

    onnxruntime runs the file without its own optimisations.

    Args:
        model: The ONNX model.
        images: (N, C, H, W).
        cuts: Replacements by value name: the readers of the value get the replacement; the value is still computed.
        wanted: The names of the values to return; default: all floating-point values.
    """
    import onnx

    onnxruntime = onnxruntime_module()

    told = copy.deepcopy(model)
    values = [value for value in node_values(model) if wanted is None or value.name in wanted]
    outputs = {value.name for value in told.graph.output}
    told.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in values if value.name not in outputs)
    _cut(told, cuts or {})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "told.onnx"
        if told.ByteSize() < _LARGEST_MESSAGE:
            content: bytes | str = told.SerializeToString()
        else:
            onnx.save(told, content := str(path), save_as_external_data=True, location="told.data")
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # it names a folder that is no more
            raise RuntimeError(str(error).replace(str(path), "the file")) from error
    feeds = {f"{name}{_CUT}": number for name, number in (cuts or {}).items()}
    feeds[session.get_inputs()[0].name] = images.numpy()
    numbers = run_session(session, [value.name for value in values], feeds) if values else []
    return [
        replace(value, number=number)
        for value, number in zip(values, numbers, strict=True)
        if isinstance(number, np.ndarray) and (wanted is not None or number.dtype.kind == "f")
    ]


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


def node_values(model: Any) -> list[Value]:
    """The values that the file's nodes compute; ``number`` is empty."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        Value(name, node.name, mark_of(node), *_inputs(node, weights), np.empty(0))
        for node in model.graph.node
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
    """A copy in eval mode and its graph.

    A network that is not a GraphModule is traced; the modules that the file's marks name stay leaves.
    """
    root = copy_module(network)
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
