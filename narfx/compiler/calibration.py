"""BatchNorm statistics of several vectors, averaged over the same images; common beginnings are computed once.

While statistics are averaged, a BatchNorm normalises by its batch. So what it averages depends on its input alone, and
vectors whose choices upstream agree have the same statistics there. Batch by batch, the vectors go through
:class:`~narfx.compiler.prefixes.Prefixes`, and the statistics are kept by the number of the value that is computed with
them. Each vector gets bit for bit what :func:`~narfx.graph.batchnorm.recalibrate` gives its lowered network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, fx, nn

from narfx.compiler.lowering import lower
from narfx.compiler.prefixes import MEMORY, Prefixes
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import tracking_norms
from narfx.operators.declared import Zeros
from narfx.operators.dispatch import Dispatch
from narfx.space.records import Vector

__all__ = ["Calibration"]

Norm: TypeAlias = nn.modules.batchnorm._BatchNorm
Statistics: TypeAlias = dict[str, Tensor]
"""The buffers of one BatchNorm by name."""


class Calibration:
    """Several vectors of a supernet in evaluation mode, each with statistics of its own.

    Each method leaves the supernet's weights, statistics and modes as they are; they must not change in between.

    Args:
        net: The supernet.
        memory: How many bytes of activations may be kept from one vector to the next. The statistics, for each vector
            at most those of its network, come on top.
    """

    def __init__(self, net: Supernet, memory: int = MEMORY) -> None:
        self.net = net
        self._prefixes = Prefixes(net, memory, before=self._place)
        self._norms = tracking_norms(net)
        self._own = {norm: dict(norm.named_buffers(recurse=False)) for norm in self._norms}
        self._modules = {
            node: net.graph_module.get_submodule(str(node.target))
            for node in net.graph_module.graph.nodes
            if node.op == "call_module"
        }
        self._kept: dict[int, dict[Norm, Statistics]] = {}
        self._averaged: dict[int, dict[Norm, Statistics]] | None = None  # while statistics are averaged
        self._counted: set[int] = set()  # the values whose statistics have the present batch
        self._vectors: set[Vector] = set()

    def shares(self, x: Tensor) -> bool:
        """Whether vectors of this supernet can share anything; ``x`` are a few images (N, C, H, W).

        They cannot where nothing may be kept; where a BatchNorm is called twice, so that its statistics depend on both
        inputs, or without the output depending on it; and where lowering takes terms out of a sum (``Zeros``), so that
        the lowered network may round differently. Then each vector is lowered and recalibrated alone.
        """
        if any(isinstance(part, Zeros) for part in self.net.modules()) or not self._called_once():
            return False
        self.net.set_vector(self.net.space.start)  # a search may have left a mixture set
        with _evaluating(self.net):
            return self._prefixes.shares(x)

    @property
    def computed(self) -> int:
        """How many nodes have been computed."""
        return self._prefixes.computed

    def __contains__(self, vector: object) -> bool:
        return vector in self._vectors

    @torch.no_grad()
    def calibrate(self, vectors: Sequence[Vector], batches: Iterable[Tensor]) -> Iterator[int]:
        """Average the statistics of these vectors over ``batches``, each (N, C, H, W), normalised.

        Yields the index of a vector after each of its passes.
        """
        momenta = {norm: norm.momentum for norm in self._norms}
        try:
            with _evaluating(self.net):
                self._averaged = {}
                for norm in self._norms:
                    norm.training, norm.momentum = True, None  # no momentum: a cumulative average
                for batch in batches:
                    self._counted.clear()
                    for index in self._prefixes.over(vectors, len(batch)):
                        self._prefixes(batch)
                        yield index
                self._kept |= self._averaged
                self._vectors |= set(vectors)
        finally:
            self._averaged = None
            for norm, momentum in momenta.items():
                norm.momentum = momentum
            self._put_back()

    def over(self, vectors: Sequence[Vector], images: int) -> Iterator[int]:
        """The indices of vectors, each ready to be called on the same images: see ``Prefixes.over``."""
        try:
            with _evaluating(self.net):
                yield from self._prefixes.over(vectors, images)
        finally:
            self._put_back()

    def __call__(self, x: Tensor) -> Tensor:
        """The output for images (N, C, H, W) of the vector that :meth:`over` is at."""
        output: Tensor = self._prefixes(x)
        return output

    def lowered(self, vector: Vector) -> fx.GraphModule:
        """The network of a calibrated vector with its statistics, in evaluation mode."""
        try:
            self._prefixes.visit(vector)
            return lower(self.net, vector).eval()
        finally:
            self._put_back()

    def _place(self, node: fx.Node, value: int) -> None:
        """Give the norms of a node the statistics by which its value is computed, or to which it adds."""
        averaged = self._averaged
        for norm in self._norms_of(node):
            if averaged is None:
                _put(norm, self._found(norm, self._kept.get(value, {})))
            elif value in self._counted:  # computed again, because the memory did not allow to keep it
                _put(norm, _copied(self._own[norm]))
            else:
                known = averaged.setdefault(value, {})
                if norm not in known:
                    _put(norm, _copied(self._own[norm]))
                    norm.reset_running_stats()
                    known[norm] = dict(norm.named_buffers(recurse=False))
                _put(norm, known[norm])
        self._counted.add(value)

    def _found(self, norm: Norm, kept: dict[Norm, Statistics]) -> Statistics:
        """What was averaged for a norm; the supernet's own where no pass called it."""
        found = kept.get(norm, self._own[norm])
        return found if found.get("num_batches_tracked", 1) else self._own[norm]

    def _norms_of(self, node: fx.Node) -> list[Norm]:
        """The norms that a node may call for what the supernet is set to."""
        module = self._modules.get(node)
        if isinstance(module, Dispatch):
            module = module.candidates[module.selected[0]]
        parts = () if module is None else module.modules()
        return [part for part in parts if isinstance(part, Norm) and part in self._own]

    def _called_once(self) -> bool:
        """Whether each norm belongs to one node, the output depends on that, and no other node reads its buffers."""
        graph = self.net.graph_module
        owners = {id(buffer): norm for norm, own in self._own.items() for buffer in own.values()}
        called = Counter(part for module in self._modules.values() for part in module.modules() if part in self._own)
        read = (_attribute(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr")
        shared = len(owners) < sum(map(len, self._own.values())) or any(id(value) in owners for value in read)
        needed = _needed(graph)
        idle = any(
            part in self._own
            for node, module in self._modules.items()
            if node not in needed
            for part in module.modules()
        )
        return not shared and not idle and max(called.values(), default=1) == 1

    def _put_back(self) -> None:
        for norm, own in self._own.items():
            _put(norm, own)


def _copied(statistics: Statistics) -> Statistics:
    return {name: buffer.clone() for name, buffer in statistics.items()}


def _put(norm: Norm, statistics: Statistics) -> None:
    for name, buffer in statistics.items():
        setattr(norm, name, buffer)


def _attribute(graph_module: fx.GraphModule, path: str) -> object:
    owner, _, name = path.rpartition(".")
    return getattr(graph_module.get_submodule(owner), name)


def _needed(graph_module: fx.GraphModule) -> set[fx.Node]:
    """The nodes that the output depends on."""
    needed: set[fx.Node] = set()
    for node in reversed(graph_module.graph.nodes):
        if node.op == "output" or not needed.isdisjoint(node.users):
            needed.add(node)
    return needed


@contextmanager
def _evaluating(net: Supernet) -> Iterator[None]:
    """Evaluation mode; the modes that were before come back."""
    modes = {part: part.training for part in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
