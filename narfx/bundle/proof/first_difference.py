"""Find the first node at which an ONNX file differs from its network; both run node by node on the same images.

The marks that narfx writes into a file match its values with the network's nodes. In a file without marks, a node
counts as correct if any value of the file has the same shape and equals it.
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
from narfx.bundle.onnx.parts import load_parts
from narfx.bundle.proof.parity import TOLERANCE, difference
from narfx.bundle.proof.values import Value, graph_of, run_file, weights_of
from narfx.graph.interpreter import Interpreter
from narfx.graph.nodes import source_line

__all__ = ["Difference", "difference_at", "first_difference"]


_REASONS = {
    "shape": "by another shape",
    "network_not_finite": "where the network's own value contains NaN or Inf",
    "file_not_finite": "where the file's value contains NaN or Inf",
}


@dataclass(frozen=True)
class Difference:
    """The first node, in graph order, whose value differs while all values before it agree.

    Attributes:
        node: A module's path, or ``add()`` or ``.mean()``; a second call has the suffix ``@1``.
        fused: Nodes before it that have no value of their own in the file, for example a convolution with a fused
            normalisation. The fault may be in them.
        source: ``file:line`` of the model, empty if not known.
        onnx_node: The name of the node in the file.
        weights: The weights of that node and of unmarked nodes that compute parts of its value.
        error: The largest absolute difference over the largest absolute value, or ``None`` if ``reason`` is not
            ``value``.
        reason: ``value``, ``shape`` (shapes differ), or ``network_not_finite`` or ``file_not_finite`` (a value contains
            NaN or infinity).
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
        return f"first difference at {self.node}{line}{before}, {size}{file}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``source`` is reduced to the file's name and the line."""
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
    """The first node of ``network`` whose value is wrong in the file, on the first batch that shows one.

    The network runs in eval mode, the file in onnxruntime without its graph optimisations. A node is not reported if
    everything computed from it agrees: then the file computes the same in another way.

    Args:
        network: The network that was exported.
        path: The ONNX file.
        batches: Images (N, C, H, W).
        tolerance: The largest allowed error, relative to the largest absolute value of a node.

    Returns:
        ``None`` if no node differs by more than ``tolerance``, for example if only onnxruntime's optimisations do.
    """
    parts = load_parts(path)
    root, graph = graph_of(network, parts.model)
    keys = node_keys(graph)
    for images in batches:
        values = run_file(parts, images)
        by_mark = {value.mark: value for value in values if value.mark}
        matcher = _match_marks(by_mark, keys) if by_mark else _match_values(values, tolerance)
        recorder = _Recorder(root, graph, matcher)
        with torch.inference_mode():
            recorder.run(images.clone())  # an in-place operation may change the network's input
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
    """The record of a node that differs.

    Args:
        wrong: The node.
        keys: The key of each node.
        errors: The error found at each node, ``None`` if the file has no value for it.
        value: The file's value of the node, if there is one.
        values: All values of the file.
        reason: See :class:`Difference`.
    """
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
    """The ``reason`` of :class:`Difference` for an error: why it is infinite, or ``value`` if it is finite."""
    if np.isfinite(error):
        return "value"
    if not np.isfinite(ours).all():
        return "network_not_finite"
    if theirs is None or ours.shape != theirs.shape:
        return "shape"
    return "value" if np.isfinite(theirs).all() else "file_not_finite"


_Matcher = Callable[[fx.Node, np.ndarray], tuple[float | None, Value | None]]


class _Recorder(Interpreter):
    """Runs a graph and compares each tensor at once, because an in-place operation may change it later."""

    def __init__(self, root: nn.Module, graph: fx.Graph, matcher: _Matcher) -> None:
        super().__init__(root, graph=graph)
        self.matcher = matcher
        self.errors: dict[fx.Node, float | None] = {}
        self.reasons: dict[fx.Node, str] = {}
        self.matched: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep its error against the file's value, ``None`` if the file has no value for it."""
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
    """The first node that differs, unless everything computed from it agrees.

    One path that agrees is not enough: a saturated gate hides a difference that continues on another path.
    """
    right: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        error = errors.get(node)
        if (error is not None and error <= tolerance) or (node.users and right.issuperset(node.users)):
            right.add(node)
    return next((n for n in graph.nodes if errors.get(n) is not None and n not in right), None)


def _unseen_before(wrong: fx.Node, errors: dict[fx.Node, float | None]) -> list[fx.Node]:
    """The predecessors of a node that have no value of their own in the file, in graph order."""
    found: set[fx.Node] = set()
    waiting = list(wrong.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in found and errors.get(node, 0.0) is None and node.op != "get_attr":
            found.add(node)
            waiting += node.all_input_nodes
    return [node for node in wrong.graph.nodes if node in found]


def _first_unmatched(values: list[Value], matched: set[str]) -> Value | None:
    """For a file without marks: its first value that equals no node, unless everything computed from it does."""
    right = set(matched)
    for value in reversed(values):
        users = {other.name for other in values if value.name in other.inputs}
        if users and right.issuperset(users):
            right.add(value.name)
    return next((value for value in values if value.name not in right), None)
