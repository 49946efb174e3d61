"""The proof of an ONNX file node by node: each node of the network is run on random values of an ordinary size.

Outputs may hide a fault: those of a network that is deep and fresh often do not depend on the image, and a gate that
saturates passes nothing on. So both sides are cut behind each node that the file holds by itself. What reads its value
gets random numbers in its place, the same on both sides, and each value is compared before it is replaced. A wrong
weight then shows at the first such node behind it, whatever becomes of it later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from narfx.bundle.onnx.marks import node_keys
from narfx.bundle.proof.first_difference import Difference, difference_at, reason_of
from narfx.bundle.proof.parity import TOLERANCE, agreement
from narfx.bundle.proof.values import graph_of, load_file, marked_values, node_values, run_file, values_before
from narfx.graph.interpreter import Interpreter
from narfx.graph.nodes import tensors

__all__ = ["Nodes", "compare_nodes"]

_CUTTABLE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Nodes:
    """How many nodes were compared by themselves, the largest error over a node's largest value, the first wrong.

    ``misplaced`` are the marks that a file may hold at values of another node: all else agrees without them.
    """

    compared: int
    max_rel_error: float
    difference: Difference | None = None
    misplaced: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Plain values; an error that is not finite is given as null."""
        error = self.max_rel_error if np.isfinite(self.max_rel_error) else None
        return {"compared": self.compared, "max_rel_error": error}


def compare_nodes(
    network: nn.Module,
    path: Path,
    input_shape: tuple[int, int, int],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Nodes:
    """Compare each node of ``network`` that the file's marks name, in eval mode, on two random images.

    Where nodes differ, all is run again and cut behind the others only: a mark may stand at a value that only what
    follows it turns into the network's. If then all agree, those marks are ``misplaced``; whether that is believed is
    for the caller to say, because a gate that saturates directly behind a wrong value hides it here too.

    An exporter writes a subexpression of two nodes once, as the mean that a variance computes again. A cut behind the
    first node then reaches the second in the file alone. Such values are compared and not replaced.
    """
    model = load_file(path)
    root, graph = graph_of(network, model)
    images = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(seed))
    pair = _Pair(root, graph, model, images, tolerance, seed)
    found, wrong = pair.compare(frozenset())
    while wrong and pair.keep_shared(wrong):
        found, wrong = pair.compare(frozenset())
    misplaced = wrong if wrong and not pair.compare(wrong)[1] else frozenset()
    return replace(found, misplaced=misplaced & pair.marked.keys())


class _Pair:
    """A network's graph and a file, to be cut at the same places."""

    def __init__(
        self, root: nn.Module, graph: fx.Graph, model: Any, images: Tensor, tolerance: float, seed: int
    ) -> None:
        self.root, self.graph, self.model, self.images, self.tolerance = root, graph, model, images, tolerance
        self.keys, self.marked = node_keys(graph), marked_values(model)
        self.generator = torch.Generator().manual_seed(seed)
        self.shapes: dict[fx.Node, Tensor] = {}
        self.shared = set[str]()
        _Watched(root, graph, self._look).start(images)

    def _look(self, node: fx.Node, value: Tensor, own: bool) -> Tensor:
        """Draw what stands for a node's value; what has the storage of an argument goes on as it is."""
        if own and self.keys.get(node) in self.marked:
            drawn = torch.randn(value.shape, generator=self.generator).to(value.dtype)
            self.shapes[node] = drawn.abs() if bool((value >= 0).all()) else drawn
        return value

    def keep_shared(self, wrong: Collection[str]) -> bool:
        """Replace no longer what reaches the value of a wrong node in the file only; whether there is more of that."""
        cuts = {self.keys[node]: node for node in self.shapes if self.keys[node] not in self.shared}
        names = {self.marked[key]: key for key in cuts}
        nodes = {key: node for node, key in self.keys.items() if key in wrong and key in self.marked}
        found = set[str]()
        for key, node in nodes.items():
            theirs = {names[name] for name in values_before(self.model, self.marked[key], names)}
            found |= theirs - {self.keys[cut] for cut in _nodes_before(node, set(cuts.values()))}
        self.shared |= found
        return bool(found)

    def compare(self, without: Collection[str]) -> tuple[Nodes, frozenset[str]]:
        """Cut behind all marked nodes but those named; also the names of those that differ, or of an output."""
        kept = self.shared.union(without)
        cuts = {self.keys[node]: drawn for node, drawn in self.shapes.items() if self.keys[node] not in kept}
        outputs = [value.name for value in self.model.graph.output]
        read = {name for mark, name in self.marked.items() if mark not in without} | set(outputs)
        replaced = {self.marked[key]: drawn.numpy() for key, drawn in cuts.items()}
        found = {v.name: v.number for v in run_file(self.model, self.images, cuts=replaced, wanted=read)}
        errors: dict[fx.Node, float | None] = {}
        reasons: dict[fx.Node, str] = {}
        twins = _Twins()

        def compare(node: fx.Node, value: Tensor, own: bool) -> Tensor:
            key = self.keys.get(node, "")
            theirs = found.get(self.marked[key]) if key in self.marked and key not in without else None
            errors[node] = None if theirs is None else agreement(value.numpy(), theirs)
            if theirs is not None:
                reasons[node] = reason_of(errors[node] or 0.0, value.numpy(), theirs)
            if key in cuts:
                twins.add(node, value)
                return cuts[key].clone()
            first = twins.find(node, value) if theirs is None else None
            return value if first is None else cuts[self.keys[first]].clone()

        result = _Watched(self.root, self.graph, compare).start(self.images)
        wrong = [node for node, error in errors.items() if error is not None and error > self.tolerance]
        marks = {node.output[0]: node for node in self.model.graph.node if node.output}
        ends: dict[str, float] = {}
        why: dict[str, str] = {}
        for name, ours in zip(outputs, tensors(result), strict=True):
            if name in found and name not in replaced and name in marks:
                ends[name] = agreement(ours.numpy(), found[name])
                why[name] = reason_of(ends[name], ours.numpy(), found[name])
        compared = [error for error in (*errors.values(), *ends.values()) if error is not None]
        worst = max(compared, default=0.0)
        bad = [name for name, error in ends.items() if error > self.tolerance]
        if not wrong and not bad:
            return Nodes(len(compared), worst), frozenset()
        if wrong:
            values = node_values(self.model)
            by_mark = {value.mark: value for value in values if value.mark}
            first = wrong[0]
            difference = difference_at(first, self.keys, errors, by_mark.get(self.keys[first]), values, reasons[first])
        else:
            name = bad[0]
            error = ends[name] if why[name] == "value" else None
            difference = Difference(f"the output {name}", (), "", marks[name].name, (), error, why[name])
        return Nodes(len(compared), worst, difference), frozenset(self.keys[node] for node in wrong) | set(bad)


def _nodes_before(node: fx.Node, stops: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes among ``stops`` that a node's value is computed from, without those that are before them."""
    found, seen, waiting = set[fx.Node](), set[fx.Node](), list(node.all_input_nodes)
    while waiting:
        source = waiting.pop()
        if source in stops:
            found.add(source)
        elif source not in seen:
            seen.add(source)
            waiting += source.all_input_nodes
    return found


class _Watched(Interpreter):
    """Runs a graph, and what ``see`` makes of each floating value goes on in its place.

    ``see`` is told whether the value has storage of its own: what is a view of an argument, or an argument changed in
    place, cannot be replaced without parting what belongs together.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, see: Callable[[fx.Node, Tensor, bool], Tensor]) -> None:
        super().__init__(root, graph=graph)
        self.see = see

    def start(self, images: Tensor) -> Any:
        """Run it; an operation in place may change the images, so it gets a copy."""
        with torch.inference_mode():
            return self.run(images.clone())

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and hand its value over."""
        value = super().run_node(n)
        if n.op in ("placeholder", "output") or not isinstance(value, Tensor) or value.dtype not in _CUTTABLE:
            return value
        given = pytree.tree_leaves([self.env.get(source) for source in n.all_input_nodes])
        storage = value.untyped_storage().data_ptr()
        own = n.op != "get_attr" and value.numel() > 0
        own = own and all(t.untyped_storage().data_ptr() != storage for t in given if isinstance(t, Tensor))
        return self.see(n, value.detach(), own)


class _Twins:
    """Nodes that compute one value of the same arguments, which an exporter writes once, under one of their names."""

    def __init__(self) -> None:
        self.first: dict[fx.Node, fx.Node] = {}
        self.values: dict[str, list[tuple[fx.Node, Tensor]]] = {}

    def add(self, node: fx.Node, value: Tensor) -> None:
        """Keep a node whose value the file holds."""
        self.values.setdefault(self._arguments(node), []).append((node, value))

    def find(self, node: fx.Node, value: Tensor) -> fx.Node | None:
        """The node kept that another one repeats, if any."""
        for first, known in self.values.get(self._arguments(node), ()):
            if known.dtype == value.dtype and torch.equal(known, value):
                self.first[node] = first
                return first
        return None

    def _arguments(self, node: fx.Node) -> str:
        return str(fx.map_arg(list(node.all_input_nodes), lambda source: self.first.get(source, source)))
