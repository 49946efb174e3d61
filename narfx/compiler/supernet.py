"""The supernet: the traced network with a dispatch node at every site, set to one operator vector at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.graph.copying import copy_module
from narfx.operators.dispatch import Dispatch, Shortcut, SkipGate
from narfx.passes.insert_dispatch import InsertDispatch
from narfx.passes.insert_skips import InsertSkips
from narfx.passes.lower_skips import closed
from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.support.collector import collector_paused
from narfx.support.text import article

__all__ = ["Supernet"]


class Supernet(nn.Module):
    """Shared weights for every architecture of a space.

    ``base`` at each site is the user's own convolution with its weights; the other operators start from it. The
    model that was traced is not touched. Set to the base vector, which is how it starts, the supernet computes bit
    for bit what the base computes.

    Args:
        traced: What ``narfx.trace`` gives; ``UsageError`` for anything else.
        separate_norms: Whether each operator has a BatchNorm of its own behind it, where the site has one.
    """

    @collector_paused()
    def __init__(self, traced: Traced, *, separate_norms: bool = False) -> None:
        super().__init__()
        if not isinstance(traced, Traced):
            raise UsageError(
                f"Supernet takes what narfx.trace gives, not {article(traced)}", where="traced", kind="not_a_trace"
            )
        self.space: SearchSpace = traced.space
        self.separate_norms = separate_norms
        refined = [slot for slot in self.space.slots if slot.skip is None]
        insert = InsertDispatch(refined, self.space.operators, separate_norms=separate_norms)
        copied = copy_module(traced.graph_module)
        if traced.skips is not None:
            InsertSkips(traced.skips)(copied)  # first: it knows the nodes of the trace by their names
        self.graph_module = insert(copied).graph_module
        self._slots: list[list[Dispatch]] = [[] for _ in self.space.slots]
        for module in self.graph_module.modules():
            if isinstance(module, Dispatch):
                self._slots[module.slot].append(module)
        self._gates = [part for part in self.graph_module.modules() if isinstance(part, (Shortcut, SkipGate))]
        self._vector = self.space.base

    @property
    def vector(self) -> Vector:
        """The vector that a forward pass computes."""
        return self._vector

    def set_vector(self, vector: Sequence[int]) -> None:
        """Select one operator at each slot, and open and close skips where the space has any.

        Raises:
            UsageError: The vector is not legal; the message names the slot and the reason.
        """
        checked = self.space.validate(vector)
        for dispatches, entry in zip(self._slots, checked, strict=True):
            for dispatch in dispatches:
                dispatch.select(self.space.operators[entry])
        opened = set(self.space.split(checked)[1] or ()) if self._gates else set()
        for gate in self._gates:
            gate.select(opened)
        self._vector = checked

    def active_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the sub-network that is set; those of other operators and closed skips are left out."""
        idle = {
            id(parameter)
            for dispatches in self._slots
            for dispatch in dispatches
            for name, candidate in dispatch.candidates.items()
            if name not in dispatch.selected
            for parameter in candidate.parameters()
        }
        idle |= {id(parameter) for gate in self._gates for module in closed(gate) for parameter in module.parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in idle)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the sub-network that is set; the shapes are the base model's."""
        output: Tensor = self.graph_module(x)
        return output
