"""Where an ONNX file first departs from its network: both are run node by node on the same images.

The file's values are matched with the network's nodes by the marks that narfx writes into it. In a file without
marks, a node counts as computed where any value of the file has its shape and equals it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from narfx.copying import copy_module
from narfx.onnx_marks import MARK, node_keys
from narfx.onnx_parity import TOLERANCE, difference
from narfx.passes.find_sites import source_line

__all__ = ["Difference", "first_difference"]


@dataclass(frozen=True)
class Difference:
    """The first node, in the order of the graph, whose value differs although all before it agree.

    ``node`` is a module's path, or ``add()`` or ``.mean()``, with ``@1`` for a second call. ``fused`` are the nodes
    before it that the file does not hold by themselves, such as a convolution whose normalisation was fused into
    it: the fault may be theirs. ``source`` is ``file:line`` of the model, as far as it is known. ``onnx_node`` is the
    node in the file, and ``weights`` are those of it and of what computes parts of its value. ``error`` is the
    largest difference over the largest value, ``None`` where the shapes differ or a value is not finite.
    """

    node: str
    fused: tuple[str, ...]
    source: str
    onnx_node: str
    weights: tuple[str, ...]
    error: float | None

    def __str__(self) -> str:
        before = f" or before it, in {', '.join(self.fused)}" if self.fused else ""
        line = f" ({Path(self.source).name})" if self.source else ""
        size = f"{self.error or 0:.2e} of its largest value"
        if self.error is None:
            size = "another shape or values that are not finite"
        held = f" with the weights {', '.join(self.weights)}" if self.weights else ""
        file = f"; the file's node is {self.onnx_node}{held}" if self.onnx_node else ""
        return f"they first differ at {self.node}{line}{before}, by {size}{file}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the source's path only the file's name and the line."""
        return {
            "node": self.node,
            "fused": list(self.fused),
            "source": Path(self.source).name,
            "onnx_node": self.onnx_node,
            "weights": list(self.weights),
            "error": self.error,
        }


@dataclass(frozen=True)
class _Value:
    """A value of the file: the node that computes it, that node's inputs and weights, and its numbers."""

    name: str
    node: str
    mark: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    number: np.ndarray


def first_difference(
    network: nn.Module, path: Path, batches: Iterable[Tensor], *, tolerance: float = TOLERANCE
) -> Difference | None:
    """The first node of ``network`` whose value the file gets wrong, on the first of the batches that shows one.

    The network is run in eval mode, the file in onnxruntime without its graph optimisations. A node is not blamed
    where all that is computed from it agrees: then the file computes it in another way.

    Returns:
        ``None`` where no node differs by more than ``tolerance``, as when only onnxruntime's own optimisations do.
    """
    model = _load(path)
    marks = [property.value for node in model.graph.node for property in node.metadata_props if property.key == MARK]
    root, graph = _graph(network, marks)
    keys = node_keys(graph)
    for images in batches:
        values = _run(model, images)
        by_mark = {value.mark: value for value in values if value.mark}
        matcher = _match_marks(by_mark, keys) if by_mark else _match_values(values, tolerance)
        recorder = _Recorder(root, graph, matcher)
        with torch.inference_mode():
            recorder.run(images.clone())  # an operation in place may change the network's input
        wrong = _first_wrong(graph, recorder.errors, tolerance)
        if wrong is None:
            continue
        value = by_mark.get(keys[wrong]) if by_mark else _first_unmatched(values, recorder.matched)
        error = recorder.errors[wrong]
        return Difference(
            keys[wrong],
            tuple(keys[node] for node in _unseen_before(wrong, recorder.errors)),
            source_line(wrong),
            value.node if value is not None else "",
            _weights(value, values) if value is not None else (),
            error if error is not None and np.isfinite(error) else None,
        )
    return None


_Matcher = Callable[[fx.Node, np.ndarray], tuple[float | None, str | None]]


class _Recorder(fx.Interpreter):
    """Runs a graph and compares each tensor as soon as it is there: an operation in place may change it later."""

    def __init__(self, root: nn.Module, graph: fx.Graph, matcher: _Matcher) -> None:
        super().__init__(root, graph=graph)
        self.matcher = matcher
        self.errors: dict[fx.Node, float | None] = {}
        self.matched: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep how far it is from the file's value, ``None`` where the file holds none."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and n.op not in ("placeholder", "output"):
            self.errors[n], name = self.matcher(n, value.detach().numpy())
            if name is not None:
                self.matched.add(name)
        return value


def _match_marks(by_mark: dict[str, _Value], keys: dict[fx.Node, str]) -> _Matcher:
    def match(node: fx.Node, ours: np.ndarray) -> tuple[float | None, str | None]:
        value = by_mark.get(keys.get(node, ""))
        return (None, None) if value is None else (difference(ours, value.number)[1], None)

    return match


def _match_values(values: list[_Value], tolerance: float) -> _Matcher:
    def match(node: fx.Node, ours: np.ndarray) -> tuple[float | None, str | None]:
        errors = [(difference(ours, value.number)[1], value.name) for value in values]
        error, name = min(errors, default=(float("inf"), None))
        return error, name if error <= tolerance else None

    return match


def _first_wrong(graph: fx.Graph, errors: dict[fx.Node, float | None], tolerance: float) -> fx.Node | None:
    """The first node that differs, unless all that is computed from it agrees.

    One agreeing path is not enough: a gate that saturates hides a difference that goes on beside it.
    """
    right: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        error = errors.get(node)
        if (error is not None and error <= tolerance) or (node.users and right.issuperset(node.users)):
            right.add(node)
    return next((n for n in graph.nodes if errors.get(n) is not None and n not in right), None)


def _unseen_before(wrong: fx.Node, errors: dict[fx.Node, float | None]) -> list[fx.Node]:
    """What leads to a node without a value of its own in the file, in the order of the graph."""
    found: set[fx.Node] = set()
    waiting = list(wrong.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in found and errors.get(node, 0.0) is None and node.op != "get_attr":
            found.add(node)
            waiting += node.all_input_nodes
    return [node for node in wrong.graph.nodes if node in found]


def _first_unmatched(values: list[_Value], matched: set[str]) -> _Value | None:
    """The same for a file without marks: its first value that equals none, unless all computed from it does."""
    right = set(matched)
    for value in reversed(values):
        users = {other.name for other in values if value.name in other.inputs}
        if users and right.issuperset(users):
            right.add(value.name)
    return next((value for value in values if value.name not in right), None)


def _weights(value: _Value, values: list[_Value]) -> tuple[str, ...]:
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


def _graph(network: nn.Module, marks: list[str]) -> tuple[nn.Module, fx.Graph]:
    """A copy in eval mode and its graph; what is none yet is traced with the leaves that the file's marks name."""
    root = copy_module(network).eval()
    if isinstance(root, fx.GraphModule):
        return root, root.graph
    # No GraphModule is made of this graph: its code would wrap torch's own assertions, and spoil traces after it.
    return root, _Tracer(frozenset(mark.partition("@")[0] for mark in marks)).trace(root)


class _Tracer(fx.Tracer):
    record_stack_traces = True
    proxy_buffer_attributes = True

    def __init__(self, leaves: frozenset[str]) -> None:
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.leaves or super().is_leaf_module(m, module_qualified_name)


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def _run(model: Any, images: Tensor) -> list[_Value]:
    """Every floating value that a node of the file computes, in the file's order."""
    import onnx
    import onnxruntime

    told = copy.deepcopy(model)
    produced = [(node, name) for node in told.graph.node for name in node.output if name]
    outputs = {value.name for value in told.graph.output}
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for _, name in produced if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "told.onnx"
        onnx.save(told, str(path), save_as_external_data=True, location="told.data")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    weights = {tensor.name for tensor in told.graph.initializer}
    wanted = [name for _, name in produced]
    numbers = dict(zip(wanted, session.run(wanted, {session.get_inputs()[0].name: images.numpy()}), strict=True))
    return [
        _Value(
            name,
            node.name,
            next((property.value for property in node.metadata_props if property.key == MARK), ""),
            tuple(node.input),
            tuple(name for name in node.input if name in weights),
            numbers[name],
        )
        for node, name in produced
        if isinstance(numbers[name], np.ndarray) and numbers[name].dtype.kind == "f"
    ]
