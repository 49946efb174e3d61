"""Forward passes of several vectors on the same images, in which what vectors have in common is computed once.

A node whose choices upstream agree between two vectors has the same value for both. So each value has a number, that of
its node, of the choice made there, and of the values that the node reads. Vectors are taken in an order in which those
with a common beginning follow each other, and a value is kept until the last vector that reads it. What is computed is
bit for bit what one forward pass a vector computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg

from narfx.compiler.supernet import Supernet
from narfx.graph.interpreter import Interpreter
from narfx.graph.nodes import tensors
from narfx.operators.dispatch import Dispatch, Shortcut, SkipGate
from narfx.passes.in_place import changed_safely, is_in_place, relatives
from narfx.space.records import Vector

__all__ = ["MEMORY", "Prefixes"]

MEMORY = 2**30
"""The bytes that are kept from one vector to the next, where nobody says otherwise."""

Node = fx.Node


@dataclass
class _Numbers:
    """The number of each node's value for one vector (equal numbers are equal values), and what each node reads."""

    values: dict[Node, int]
    reads: dict[Node, list[Node]]


@dataclass
class _Turn:
    """One vector's part of a plan: what it computes, what is dropped after which node, and what changes a copy."""

    index: int
    values: dict[Node, int]
    computed: list[Node]
    dropped: dict[Node, list[int]] = field(default_factory=dict)
    cloned: set[Node] = field(default_factory=set)


class Prefixes:
    """Calls of a supernet for one vector after another, on the same images.

    ``for index in prefixes.over(vectors, images)`` goes through the vectors; at each, one call computes what
    ``net.set_vector(vectors[index])`` and a call of the supernet would. All calls of one loop must have the same
    images, and the network the same weights and modes.

    Args:
        net: The supernet. Where its network reads a tensor that it has changed in place, nothing is shared.
        memory: How many bytes may be kept from one vector to the next; with 0 nothing is shared.
        before: Called before a node is computed, with the node and the number of its value. Where it is given, equal
            numbers are equal values in all loops, not in one alone: each call costs a little more memory.
    """

    def __init__(
        self, net: Supernet, memory: int = MEMORY, *, before: Callable[[Node, int], None] | None = None
    ) -> None:
        self.net, self._memory, self._before = net, memory, before
        self._known: dict[Any, int] = {}
        self._nodes = list(net.graph_module.graph.nodes)
        self._output = self._nodes[-1]
        self._shares = memory > 0 and changed_safely(net.graph_module)
        self._modules = {
            node: net.graph_module.get_submodule(str(node.target)) for node in self._nodes if node.op == "call_module"
        }
        self._changing = {node for node in self._nodes if is_in_place(net.graph_module, node)}
        self._relatives = relatives(net.graph_module) if self._changing else {}
        self._sizes: dict[Node, float] | None = None  # bytes of one image
        self._run = Interpreter(net.graph_module, garbage_collect_values=False)
        self._turn: _Turn | None = None
        self._kept: dict[int, Any] = {}
        self.computed = 0
        """How many nodes have been computed; without sharing it would be all nodes for each vector."""

    def shares(self, x: Tensor) -> bool:
        """Whether anything is shared, found by a pass over images (N, C, H, W) of what the supernet is set to."""
        if self._shares and self._sizes is None:
            self._measure(x)
        return self._shares

    def over(self, vectors: Sequence[Vector], images: int) -> Iterator[int]:
        """The indices of the vectors, in the order in which they share the most; ``images`` come with each call."""
        try:
            for turns in self._plans(vectors, images):
                self._kept.clear()
                for turn in turns:
                    self.net.set_vector(vectors[turn.index])
                    self._turn = turn
                    yield turn.index
        finally:
            self._turn = None
            self._kept.clear()

    def visit(self, vector: Vector) -> None:
        """Set the supernet to a vector, and call ``before`` for each of its nodes without computing any."""
        self.net.set_vector(vector)
        for node, value in self._numbers(vector, self._known).values.items():
            if self._before is not None:
                self._before(node, value)

    def __call__(self, x: Tensor) -> Any:
        """The output for images (N, C, H, W) of the vector that :meth:`over` is at."""
        turn = self._turn
        if turn is None:
            return self.net(x)
        if not self._shares:
            self.computed += len(self._nodes)
            return self.net(x)
        if self._sizes is None:
            return self._measure(x)
        for node in turn.computed:
            self._kept[turn.values[node]] = self._compute(node, turn, x)
            if node is not self._output:
                self._drop(turn, node)
        self.computed += len(turn.computed)
        found = self._kept[turn.values[self._output]]
        self._drop(turn, self._output)
        return found

    def _drop(self, turn: _Turn, node: Node) -> None:
        for value in turn.dropped.get(node, ()):
            del self._kept[value]

    def _compute(self, node: Node, turn: _Turn, x: Tensor) -> Any:
        if node.op == "placeholder":
            return x
        if node.op == "output":
            return map_arg(node.args[0], lambda arg: self._kept[turn.values[arg]])
        env = {arg: self._kept.get(turn.values[arg]) for arg in node.all_input_nodes}
        if node in turn.cloned:
            first = node.all_input_nodes[0]
            env[first] = _clone(env[first])
        self._run.env = env
        if self._before is not None:
            self._before(node, turn.values[node])
        return self._run.run_node(node)

    def _measure(self, x: Tensor) -> Any:
        """One whole pass, in which the sizes of values are found, and whether a module changes what it is given."""
        values, sizes = dict[Node, Any](), dict[Node, float]()
        with torch.inference_mode(False), torch.no_grad():
            own = x.clone()
            for node in self._nodes:
                if node.op == "placeholder":
                    values[node] = own
                elif node.op == "output":
                    values[node] = map_arg(node.args[0], values.__getitem__)
                else:
                    given = tensors([values[arg] for arg in node.all_input_nodes])
                    before = [tensor._version for tensor in given]
                    self._run.env = {arg: values[arg] for arg in node.all_input_nodes}
                    values[node] = self._run.run_node(node)
                    if [tensor._version for tensor in given] != before and node not in self._changing:
                        self._shares = False
                sizes[node] = sum(t.numel() * t.element_size() for t in tensors(values[node])) / len(x)
        self._sizes = sizes
        self.computed += len(self._nodes)
        return values[self._output]

    # Plans

    def _plans(self, vectors: Sequence[Vector], images: int) -> Iterator[list[_Turn]]:
        known: dict[Any, int] = {} if self._before is None else self._known
        numbers = [self._numbers(vector, known) for vector in vectors]
        order = sorted(range(len(vectors)), key=lambda index: [*numbers[index].values.values()])
        if self._shares and self._sizes is None and order:  # the first vector ever measures the others
            yield [_Turn(order[0], numbers[order[0]].values, [])]
            order = order[1:]
        if self._shares:
            yield from self._within(order, numbers, images)
        else:
            yield from ([_Turn(index, numbers[index].values, [])] for index in order)

    def _within(self, order: list[int], numbers: list[_Numbers], images: int) -> Iterator[list[_Turn]]:
        """Plans that keep no more than the memory, by halves where one plan would."""
        if not order:
            return
        turns, most = self._plan(order, numbers, images)
        if most <= self._memory or len(order) == 1:
            yield turns
        else:
            half = len(order) // 2
            yield from self._within(order[:half], numbers, images)
            yield from self._within(order[half:], numbers, images)

    def _plan(self, order: list[int], numbers: list[_Numbers], images: int) -> tuple[list[_Turn], float]:
        """The turns of these vectors, and the most bytes that are kept between two of them."""
        assert self._sizes is not None
        turns, last, known = list[_Turn](), dict[int, tuple[int, Node]](), set[int]()
        for position, index in enumerate(order):
            own, wanted, computed = numbers[index], {self._output}, list[Node]()
            for node in reversed(self._nodes):
                if node not in wanted or own.values[node] in known:
                    continue
                computed.append(node)
                known.add(own.values[node])
                wanted.update(own.reads[node])
                for arg in own.reads[node]:  # from the end: the first reader that is met is the last
                    if last.get(own.values[arg], (-1, node))[0] < position:
                        last[own.values[arg]] = (position, node)
            last[own.values[self._output]] = (position, self._output)
            turns.append(_Turn(index, own.values, computed[::-1]))
        for value, (position, node) in last.items():
            turns[position].dropped.setdefault(node, []).append(value)
        self._protect(turns, last)
        return turns, self._most(turns) * images

    def _protect(self, turns: list[_Turn], last: dict[int, tuple[int, Node]]) -> None:
        """Let a node that changes its input change a copy, where a later vector reads what shares memory with it."""
        for position, turn in enumerate(turns):
            turn.cloned.update(
                node
                for node in turn.computed
                if node in self._changing
                and any(last.get(turn.values[other], (0, node))[0] > position for other in self._relatives[node])
            )

    def _most(self, turns: list[_Turn]) -> float:
        """The most bytes an image that are kept from one turn to the next."""
        assert self._sizes is not None
        kept, most, sizes = 0.0, 0.0, dict[int, float]()
        for turn in turns:
            for node in turn.computed:
                sizes[turn.values[node]] = self._sizes[node]
                kept += self._sizes[node]
            kept -= sum(sizes[value] for group in turn.dropped.values() for value in group)
            most = max(most, kept)
        return most

    def _numbers(self, vector: Vector, known: dict[Any, int]) -> _Numbers:
        vector = self.net.space.validate(vector)
        opened = frozenset(self.net.space.split(vector)[1] or ())
        found = _Numbers({}, {})
        for node in self._nodes:
            reads = node.all_input_nodes
            choice: Any = None
            match self._modules.get(node):
                case Dispatch(slot=slot):
                    choice = vector[slot]
                case Shortcut(pair=pair):
                    choice = pair in opened
                case SkipGate(pairs=pairs):
                    choice = tuple(pair in opened for pair in pairs)
                    reads = [x for x, is_open in zip(node.args, (True, *choice), strict=True) if is_open]
            key = (node, choice, *(found.values[arg] for arg in reads))
            found.values[node], found.reads[node] = known.setdefault(key, len(known)), reads
        return found


def _clone(value: Any) -> Any:
    return map_aggregate(value, lambda part: part.clone() if isinstance(part, Tensor) else part)
