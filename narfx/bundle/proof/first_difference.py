"""Where an ONNX file first departs from its network: both are run node by node on the same images.

The file's values are matched with the network's nodes by the marks that narfx writes into it. In a file without
marks, a node counts as computed where any value of the file has its shape and equals it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from narfx.bundle.onnx.marks import node_keys
from narfx.bundle.proof.parity import TOLERANCE, difference
from narfx.bundle.proof.values import Value, graph_of, load_file, run_file, weights_of
from narfx.graph.interpreter import Interpreter
from narfx.graph.nodes import source_line

__all__ = ["Difference", "difference_at", "first_difference"]


_REASONS = {
    "shape": "by another shape",
    "network_not_finite": "where the network's own value holds NaN or infinity",
    "file_not_finite": "where the file's value holds NaN or infinity",
}


@dataclass(frozen=True)
class Difference:
    """The first node, in the order of the graph, whose value differs although all before it agree.

    ``node`` is a module's path, or ``add()`` or ``.mean()``, with ``@1`` for a second call. ``fused`` are the nodes
    before it that the file does not hold by themselves, such as a convolution whose normalisation was fused into
    it: the fault may be theirs. ``source`` is ``file:line`` of the model, as far as it is known. ``onnx_node`` is the
    node in the file, and ``weights`` are those of it and of what computes parts of its value. ``error`` is the
    largest difference over the largest value, ``None`` where ``reason`` says why there is none: ``shape``, or
    ``network_not_finite`` or ``file_not_finite`` for a value that holds NaN or infinity.
    """

    node: str
    fused: tuple[str, ...]
    source: str
    onnx_node: str
    weights: tuple[str, ...]
    error: float | None
    reason: str = "value"

    def __str__(self) -> str:
        before = f" or before it, in {', '.join(self.fused)}" if self.fused else ""
        line = f" ({Path(self.source).name})" if self.source else ""
        size = _REASONS.get(self.reason) or f"by {self.error:.2e} of its largest value"
        held = f" with the weights {', '.join(self.weights)}" if self.weights else ""
        file = f"; the file's node is {self.onnx_node}{held}" if self.onnx_node else ""
        return f"they first differ at {self.node}{line}{before}, {size}{file}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the source's path only the file's name and the line."""
        return {
            "node": self.node,
            "fused": list(self.fused),
            "source": Path(self.source).name,
            "onnx_node": self.onnx_node,
            "weights": list(self.weights),
            "error": self.error,
            "reason": self.reason,
        }


def first_difference(
    network: nn.Module, path: Path, batches: Iterable[Tensor], *, tolerance: float = TOLERANCE
) -> Difference | None:
    """The first node of ``network`` whose value the file gets wrong, on the first of the batches that shows one.

    The network is run in eval mode, the file in onnxruntime without its graph optimisations. A node is not blamed
    where all that is computed from it agrees: then the file computes it in another way.

    Returns:
        ``None`` where no node differs by more than ``tolerance``, as when only onnxruntime's own optimisations do.
    """
    model = load_file(path)
    root, graph = graph_of(network, model)
    keys = node_keys(graph)
    for images in batches:
        values = run_file(model, images)
        by_mark = {value.mark: value for value in values if value.mark}
        matcher = _match_marks(by_mark, keys) if by_mark else _match_values(values, tolerance)
        recorder = _Recorder(root, graph, matcher)
        with torch.inference_mode():
            recorder.run(images.clone())  # an operation in place may change the network's input
        wrong = _first_wrong(graph, recorder.errors, tolerance)
        if wrong is None:
            continue
        value = by_mark.get(keys[wrong]) if by_mark else _first_unmatched(values, recorder.matched)
        return difference_at(wrong, keys, recorder.errors, value, values, recorder.reasons[wrong])
    return None


def difference_at(
    wrong: fx.Node,
    keys: dict[fx.Node, str],
    errors: dict[fx.Node, float | None],
    value: Value | None,
    values: list[Value],
    reason: str,
) -> Difference:
    """What is known of a node that differs: ``value`` is the file's, among ``values``, ``errors`` those found."""
    error = errors[wrong]
    return Difference(
        keys[wrong],
        tuple(keys[node] for node in _unseen_before(wrong, errors)),
        source_line(wrong),
        value.node if value is not None else "",
        weights_of(value, values) if value is not None else (),
        error if reason == "value" else None,
        reason,
    )


def reason_of(error: float, ours: np.ndarray, theirs: np.ndarray | None) -> str:
    """Why an error is infinite, in the words of :class:`Difference`; ``value`` where it is a number."""
    if np.isfinite(error):
        return "value"
    if not np.isfinite(ours).all():
        return "network_not_finite"
    if theirs is None or ours.shape != theirs.shape:
        return "shape"
    return "value" if np.isfinite(theirs).all() else "file_not_finite"


_Matcher = Callable[[fx.Node, np.ndarray], tuple[float | None, Value | None]]


class _Recorder(Interpreter):
    """Runs a graph and compares each tensor as soon as it is there: an operation in place may change it later."""

    def __init__(self, root: nn.Module, graph: fx.Graph, matcher: _Matcher) -> None:
        super().__init__(root, graph=graph)
        self.matcher = matcher
        self.errors: dict[fx.Node, float | None] = {}
        self.reasons: dict[fx.Node, str] = {}
        self.matched: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep how far it is from the file's value, ``None`` where the file holds none."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and n.op not in ("placeholder", "output"):
            ours = value.detach().numpy()
            error, found = self.matcher(n, ours)
            self.errors[n] = error
            if error is not None:
                self.reasons[n] = reason_of(error, ours, found.number if found is not None else None)
            if found is not None and not found.mark:
                self.matched.add(found.name)
        return value


def _match_marks(by_mark: dict[str, Value], keys: dict[fx.Node, str]) -> _Matcher:
    def match(node: fx.Node, ours: np.ndarray) -> tuple[float | None, Value | None]:
        value = by_mark.get(keys.get(node, ""))
        return (None, None) if value is None else (difference(ours, value.number)[1], value)

    return match


def _match_values(values: list[Value], tolerance: float) -> _Matcher:
    def match(node: fx.Node, ours: np.ndarray) -> tuple[float | None, Value | None]:
        errors = [difference(ours, value.number)[1] for value in values]
        best = int(np.argmin(errors)) if errors else 0
        error = errors[best] if errors else float("inf")
        return error, values[best] if error <= tolerance else None

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


def _first_unmatched(values: list[Value], matched: set[str]) -> Value | None:
    """The same for a file without marks: its first value that equals none, unless all computed from it does."""
    right = set(matched)
    for value in reversed(values):
        users = {other.name for other in values if value.name in other.inputs}
        if users and right.issuperset(users):
            right.add(value.name)
    return next((value for value in values if value.name not in right), None)
