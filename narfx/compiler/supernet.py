"""The supernet: the traced network with a dispatch node at every site, set to one vector or to a mixture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor, nn

from narfx.compiler.features import Feature, Visit, check_slots, recorded, visited
from narfx.compiler.mixture import Mixture, read_mixture
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.graph.copying import copy_module
from narfx.operators.dispatch import Dispatch, Shortcut, SkipGate
from narfx.operators.weighted_sum import Weight
from narfx.passes.insert_dispatch import InsertDispatch
from narfx.passes.insert_skips import InsertSkips
from narfx.passes.lower_skips import closed
from narfx.passes.skips import SkipCandidate, SkipDomain
from narfx.space.notebook import slot_table
from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.support.collector import collector_paused
from narfx.support.text import article, count

__all__ = ["Supernet"]


class Supernet(nn.Module):
    """Shared weights for every architecture of a space.

    ``base`` at each site is the user's own convolution with its weights; the other operators start from it. The
    model that was traced is not touched. Set to the base vector, the supernet computes bit for bit what the base
    computes. It starts at the first vector: the base where that is legal, else the first legal choice of each slot.

    Args:
        traced: What ``narfx.trace`` gives; ``UsageError`` for anything else.
        space: A narrower space of the same trace (``traced.space.restrict(...)``): only what is legal in it is
            built. ``UsageError`` for a space of another trace.
        separate_norms: Whether each operator has a BatchNorm of its own after it, where the site has one.
    """

    @collector_paused()
    def __init__(self, traced: Traced, *, space: SearchSpace | None = None, separate_norms: bool = False) -> None:
        super().__init__()
        if not isinstance(traced, Traced):
            raise UsageError(
                f"Supernet takes what narfx.trace gives, not {article(traced)}", where="traced", kind="not_a_trace"
            )
        self.space = traced.space if space is None else _narrower(space, traced.space)
        self.separate_norms = separate_norms
        insert = InsertDispatch(self.space.slots, separate_norms=separate_norms)
        copied = copy_module(traced.graph_module)
        if traced.skips is not None:
            # First: it knows the nodes of the trace by their names.
            InsertSkips(_possible(traced.skips, self.space))(copied)
        self.graph_module = insert(copied).graph_module
        self._slots: list[list[Dispatch]] = [[] for _ in self.space.slots]
        for module in self.graph_module.modules():
            if isinstance(module, Dispatch):
                self._slots[module.slot].append(module)
        self._gates: list[Shortcut | SkipGate] = [
            part for part in self.graph_module.modules() if isinstance(part, (Shortcut, SkipGate))
        ]
        self._vector: Vector | None
        self.set_vector(self.space.start)

    def __repr__(self) -> str:
        """One line; ``graph_module`` holds the modules."""
        if self._vector is None:
            return f"Supernet(a mixture, {self.space!r})"
        slots = count(len(self._vector), "slot")
        return f"Supernet({sum(map(bool, self._vector))} of {slots} not as the base, {self.space!r})"

    def _repr_html_(self) -> str:
        return slot_table(repr(self), self.space.slots, self._vector)

    @property
    def vector(self) -> Vector:
        """The vector that a forward pass computes.

        Raises:
            UsageError: A mixture is set, which no vector describes.
        """
        if self._vector is None:
            raise UsageError(
                "a mixture is set, which no vector describes: call set_vector(vector) first", kind="mixture_set"
            )
        return self._vector

    def set_vector(self, vector: Sequence[int | str]) -> None:
        """Select one operator at each slot, and open and close skips where the space has any; ends a mixture.

        An entry is the index of a choice or its name, such as ``"dwsep3x3"``.

        Raises:
            UsageError: The vector is not legal; the message names the slot and the reason.
        """
        checked = self.space.validate(vector)
        for slot, dispatches, entry in zip(self.space.slots, self._slots, checked, strict=True):
            for dispatch in dispatches:
                dispatch.select(slot.choices[entry])
        opened = set(self.space.split(checked)[1] or ()) if self._gates else set()
        for gate in self._gates:
            gate.select(opened)
        self._vector = checked

    def set_mixture(self, mixture: Mixture) -> None:
        """Compute at each slot the sum of its choices' outputs, each times its weight; gradients flow to the weights.

        A row has one weight for each choice of its slot, in their order, and 0 where a choice is not legal. The
        weights are taken as they are: a softmax, or a draw as in GDAS, is the caller's. With norms of their own the
        sum is over operator and norm together, of w·norm(op(x)). A skip has two weights, of the base's way and of the
        other one: what is added is the skip times the weight of the way in which it is open; the weight of the other
        way, in which nothing is added, changes nothing. So weights of 1 for a vector's choices and 0 for the others
        give what ``set_vector`` gives where all outputs are finite: bit for bit if they need no gradient, else but for
        rounding, because one convolution may compute several operators.

        A choice whose weight is 0 and needs no gradient is not computed. Weights that need no gradient are read once;
        a change made to them in place later is not seen. ``set_vector`` ends the mixture.

        Args:
            mixture: One row a slot: a tensor with one axis, or a list of numbers and tensors without axes; a tensor
                (slots, operators) will do where there are no skips.

        Raises:
            UsageError: A row is missing or too long, a weight is not finite, or that of an illegal choice is not 0;
                what was set stays set.
        """
        terms = read_mixture(self.space, mixture)
        for slot, dispatches, row in zip(self.space.slots, self._slots, terms, strict=True):
            for dispatch in dispatches:
                dispatch.select(*(slot.choices[k] for k in row), weights=[*row.values()])
        opened: dict[tuple[int, int], Weight] = {}
        for slot, row in zip(self.space.slots, terms, strict=True):
            if slot.skip is not None and int(not slot.skip.base) in row:
                opened[slot.skip.source, slot.skip.target] = row[int(not slot.skip.base)]
        for gate in self._gates:
            if isinstance(gate, SkipGate):
                gate.select(opened, opened)
            else:
                gate.select(opened)
        self._vector = None

    @contextmanager
    def features(self, slots: Iterable[int]) -> Iterator[Mapping[int, Mapping[str, Feature]]]:
        """The input and output of the operators at these slots, in the last forward pass inside the context.

        What is yielded holds, by slot and by the name of the call site (``Site.name``), a pair of tensors (input,
        output), each (N, C, H, W). They are copies, so that no operation in place changes them, and parts of the
        autograd graph. Of a mixture the output is the weighted sum of the operators' outputs, before any norm. Outside
        of the context nothing is recorded, and a forward pass costs what it does without.

        Raises:
            UsageError: There is no such slot, or it is a skip.
        """
        with recorded(self, self._slots, check_slots(self.space, slots)) as seen:
            yield seen

    def dispatches(self, slots: Iterable[int]) -> Iterator[Dispatch]:
        """The nodes of the operators at these slots, in the order of the slots; norms are left out.

        Raises:
            UsageError: There is no such slot, or it is a skip.
        """
        for index, sites in check_slots(self.space, slots).items():
            targets = {site.target for site in sites}
            yield from (node for node in self._slots[index] if node.site in targets)

    @contextmanager
    def visits(self, slots: Iterable[int], visitor: Callable[[Visit], None]) -> Iterator[None]:
        """Call ``visitor`` at each operator of these slots, in the middle of the forward pass that reaches it.

        Unlike :meth:`features` it keeps nothing: the tensors of one site are all that there is at a time.

        Raises:
            UsageError: There is no such slot, or it is a skip.
        """
        with visited(self.dispatches(slots), visitor):
            yield

    def active_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that a forward pass uses; those of other operators and closed skips are left out."""
        idle = {
            id(parameter)
            for dispatches in self._slots
            for dispatch in dispatches
            for name, candidate in dispatch.candidates.items()
            if name not in dispatch.selected
            for parameter in candidate.parameters()
        }
        idle |= {
            id(parameter)
            for gate in self._gates
            for module in closed(gate, gate.opened)
            for parameter in module.parameters()
        }
        return (parameter for parameter in self.parameters() if id(parameter) not in idle)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what is set; the shapes are the base model's."""
        output: Tensor = self.graph_module(x)
        return output


def _narrower(space: SearchSpace, whole: SearchSpace) -> SearchSpace:
    """The given space, proven to be the whole or a part of it."""
    fits = (
        isinstance(space, SearchSpace)
        and space.operators == whole.operators
        and len(space) == len(whole)
        and all(
            (own.name, own.sites, own.choices) == (slot.name, slot.sites, slot.choices)
            and {*own.legal} <= {*slot.legal}
            for own, slot in zip(space.slots, whole.slots, strict=True)
        )
    )
    if not fits:
        raise UsageError(
            "the space is not one of this trace: make it with traced.space.restrict(...) or traced.space.within(...)",
            where="space",
            kind="foreign_space",
        )
    return space


def _possible(domain: SkipDomain, space: SearchSpace) -> SkipDomain:
    """The skips of the base, and those others that some legal vector opens."""
    opened = {(slot.skip.source, slot.skip.target) for slot in space.slots if slot.skip is not None and 1 in slot.legal}

    def kept(pairs: Collection[SkipCandidate]) -> tuple[SkipCandidate, ...]:
        return tuple(c for c in pairs if c.skip.base or (c.skip.source, c.skip.target) in opened)

    junctions = [replace(junction, candidates=kept(junction.candidates)) for junction in domain.junctions]
    return replace(domain, junctions=tuple(junction for junction in junctions if junction.candidates))
