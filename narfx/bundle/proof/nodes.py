"""The proof of an ONNX file node by node: each node of the network runs on random values of order 1.

Outputs may hide a fault: the outputs of a deep, untrained network often do not depend on the image, and a saturated
gate passes no difference on. So network and file are cut after each node that has a value of its own in the file. The
value is compared, then replaced by random numbers, the same on both sides. A wrong weight therefore shows at the first
such node after it, independent of later nodes.
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
from narfx.bundle.onnx.parts import Parts, load_parts
from narfx.bundle.proof.first_difference import Difference, difference_at, reason_of
from narfx.bundle.proof.parity import TOLERANCE, agreement
from narfx.bundle.proof.values import graph_of, marked_values, node_values, run_file, values_before
from narfx.graph.interpreter import Interpreter
from narfx.graph.nodes import tensors

__all__ = ["Nodes", "compare_nodes"]

_CUTTABLE = (torch.float32, torch.float64)
_DRAWN = 524287


@dataclass(frozen=True)
class Nodes:
    """The result of comparing nodes one by one.

    Attributes:
        compared: How many nodes were compared.
        max_rel_error: The largest error of a node, relative to its largest absolute value.
        difference: The first node that differs, if any.
        misplaced: Marks that may be at the value of another node: without them everything else agrees.
    """

    compared: int
    max_rel_error: float
    difference: Difference | None = None
    misplaced: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Plain values; an error that is not finite becomes null."""
        error = self.max_rel_error if np.isfinite(self.max_rel_error) else None
        return {"compared": self.compared, "max_rel_error": error}


def compare_nodes(
    network: nn.Module,
    file: Path | Parts,
    input_shape: tuple[int, int, int],
    *,
    images: int = 2,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Nodes:
    """Compare each marked node of ``network``, in eval mode, on random images of ``input_shape`` (C, H, W).

    If nodes differ, everything runs again with cuts only after the other nodes, because a mark may be one node too
    early. If everything agrees then, those marks are ``misplaced``. The caller decides whether to accept that: a gate
    that saturates directly after a wrong value hides it here too.

    An exporter writes a subexpression that two nodes share once, for example the mean inside a variance. A cut after
    the first node then reaches the second node in the file only. Such values are compared but not replaced.
    """
    parts = load_parts(file) if isinstance(file, Path) else file
    root, graph = graph_of(network, parts.model)
    x = torch.randn(images, *input_shape, generator=torch.Generator().manual_seed(seed))
    pair = _Pair(root, graph, parts, x, tolerance, seed)
    found, wrong = pair.compare(frozenset())
    while wrong and pair.keep_shared(wrong):
        found, wrong = pair.compare(frozenset())
    misplaced = wrong if wrong and not pair.compare(wrong)[1] else frozenset()
    return replace(found, misplaced=misplaced & pair.marked.keys())


class _Pair:
    """A network's graph and a file, to be cut at the same places."""

    def __init__(
        self, root: nn.Module, graph: fx.Graph, parts: Parts, images: Tensor, tolerance: float, seed: int
    ) -> None:
        self.root, self.graph, self.parts, self.images, self.tolerance = root, graph, parts, images, tolerance
        self.model = parts.model
        self.keys, self.marked = node_keys(graph), marked_values(self.model)
        self.seed = seed
        self.cuts: dict[str, Tensor] = {}
        self.shared = set[str]()

    def keep_shared(self, wrong: Collection[str]) -> bool:
        """Stop replacing values that reach a wrong node in the file only; returns whether there were more of them."""
        cuts = {key: node for node, key in self.keys.items() if key in self.cuts}
        names = {self.marked[key]: key for key in cuts}
        nodes = {key: node for node, key in self.keys.items() if key in wrong and key in self.marked}
        found = set[str]()
        for key, node in nodes.items():
            theirs = {names[name] for name in values_before(self.model, self.marked[key], names)}
            found |= theirs - {self.keys[cut] for cut in _nodes_before(node, set(cuts.values()))}
        self.shared |= found
        return bool(found)

    def compare(self, without: Collection[str]) -> tuple[Nodes, frozenset[str]]:
        """Compare with cuts after all marked nodes except ``without``; returns also the marks that differ."""
        read = {mark: name for mark, name in self.marked.items() if mark not in without}
        computed, result = self._run(read)
        outputs = [value.name for value in self.model.graph.output]
        replaced = {self.marked[key]: drawn.numpy() for key, drawn in self.cuts.items()}
        wanted = {*read.values(), *outputs}
        found = {v.name: v.number for v in run_file(self.parts, self.images, cuts=replaced, wanted=wanted)}
        errors: dict[fx.Node, float | None] = dict.fromkeys(computed)
        reasons: dict[fx.Node, str] = {}
        for node, value in computed.items():
            theirs = found.get(read[self.keys[node]]) if value is not None else None
            if value is not None and theirs is not None:
                errors[node] = size = agreement(value, theirs)
                reasons[node] = reason_of(size, value, theirs)
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
            values = node_values(self.parts)
            by_mark = {value.mark: value for value in values if value.mark}
            first = wrong[0]
            difference = difference_at(first, self.keys, errors, by_mark.get(self.keys[first]), values, reasons[first])
        else:
            name = bad[0]
            error = ends[name] if why[name] == "value" else None
            difference = Difference(f"the output {name}", (), "", marks[name].name, (), error, why[name])
        return Nodes(len(compared), worst, difference), frozenset(self.keys[node] for node in wrong) | set(bad)

    def _run(self, read: Collection[str]) -> tuple[dict[fx.Node, np.ndarray | None], Any]:
        """Run the network and draw ``cuts``, which replace the values of the nodes with the marks ``read``.

        A value that shares storage with an argument is not replaced. Returns each node's value, ``None`` if its mark
        is not read, and the outputs.
        """
        numbers = _Numbers(self.seed)
        values: dict[fx.Node, np.ndarray | None] = {}
        twins, self.cuts = _Twins(), {}

        def see(node: fx.Node, value: Tensor, own: bool, passed: fx.Node | None) -> Tensor:
            key = self.keys.get(node, "")
            if passed is not None:
                twins.pass_on(node, passed)
            if key not in read:
                values[node] = None
                first = twins.find(node, value)
                return value if first is None else self.cuts[self.keys[first]].clone()
            if not own or key in self.shared:
                values[node] = value.clone().numpy()  # a later node may change it in place
                return value
            values[node] = value.numpy()
            drawn = numbers.take(value.numel(), positive=float(value.min()) >= 0)
            self.cuts[key] = drawn.reshape(value.shape).to(value.dtype)
            twins.add(node, value)
            return self.cuts[key].clone()

        return values, _Watched(self.root, self.graph, see).start(self.images)


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
    """Runs a graph and replaces each floating-point value by the result of ``see(node, value, own, passed)``.

    ``own`` is whether the value has its own storage. A view of an argument, or an argument changed in place, must not
    be replaced, because other values share its storage. ``passed`` is the node's only argument, where it gives that
    argument on, as an identity does.
    """

    def __init__(
        self, root: nn.Module, graph: fx.Graph, see: Callable[[fx.Node, Tensor, bool, fx.Node | None], Tensor]
    ) -> None:
        super().__init__(root, graph=graph)
        self.see = see

    def start(self, images: Tensor) -> Any:
        """Run the graph on a copy of the images, which an in-place operation may change."""
        with torch.inference_mode():
            return self.run(images.clone())

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and pass its value to ``see``."""
        value = super().run_node(n)
        if n.op in ("placeholder", "output") or not isinstance(value, Tensor) or value.dtype not in _CUTTABLE:
            return value
        given = pytree.tree_leaves([self.env.get(source) for source in n.all_input_nodes])
        storage = value.untyped_storage().data_ptr()
        own = n.op != "get_attr" and value.numel() > 0
        own = own and all(t.untyped_storage().data_ptr() != storage for t in given if isinstance(t, Tensor))
        alone = len(n.all_input_nodes) == 1 and any(leaf is value for leaf in given)
        passed = n.all_input_nodes[0] if alone else None
        return self.see(n, value.detach(), own, passed)


class _Numbers:
    """Random numbers of order 1 for all cuts, which are drawn once and taken in turn.

    There are a prime number of them, so no two channels or images get the same where they come round again. What is
    taken is a part of one long row of them, because a copy for each cut would take longer than drawing them.
    """

    def __init__(self, seed: int) -> None:
        self.drawn = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(seed))
        self.place = 0
        self.rows = {False: self.drawn, True: self.drawn.abs()}

    def take(self, count: int, *, positive: bool) -> Tensor:
        """The next ``count`` numbers, or their absolute values, which must not be changed."""
        end = self.place + count
        if end > len(self.rows[False]):
            row = self.drawn.repeat(-(-end // _DRAWN))
            self.rows = {False: row, True: row.abs()}
        taken = self.rows[positive][self.place : end]
        self.place = end % _DRAWN
        return taken


class _Twins:
    """Nodes that compute the same value from the same arguments; an exporter writes such a value only once."""

    def __init__(self) -> None:
        self.first: dict[fx.Node, fx.Node] = {}
        self.values: dict[str, list[tuple[fx.Node, Tensor]]] = {}

    def add(self, node: fx.Node, value: Tensor) -> None:
        """Keep a node that has a value in the file."""
        self.values.setdefault(self._arguments(node), []).append((node, value))

    def pass_on(self, node: fx.Node, source: fx.Node) -> None:
        """Take a node for its argument, which it gives on: a file has no value of its own for it."""
        self.first[node] = self.first.get(source, source)

    def find(self, node: fx.Node, value: Tensor) -> fx.Node | None:
        """The kept node that computes the same as ``node``, if any."""
        for first, known in self.values.get(self._arguments(node), ()):
            if known.dtype == value.dtype and torch.equal(known, value):
                self.first[node] = first
                return first
        return None

    def _arguments(self, node: fx.Node) -> str:
        return str(fx.map_arg(list(node.all_input_nodes), lambda source: self.first.get(source, source)))
