"""A network's slots, costs and outline as plain records in a file, so that a report can show them and run no code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from narfx.space.records import Slot
from narfx.space.space import SearchSpace

__all__ = ["NetworkRecord", "NodeKind", "NodeRecord", "SlotRecord", "slot_records"]


NodeKind = Literal["input", "site", "layer", "pool", "join", "output"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class NodeRecord(_Record):
    """One node of a network's outline: a site, another layer, or a place where several values meet.

    ``name`` is the module path; of a site it is that of :class:`~narfx.space.records.Site`. ``inputs`` are the indices
    of earlier nodes whose outputs it takes.
    """

    name: str
    kind: NodeKind
    label: str
    inputs: tuple[int, ...] = ()


class SlotRecord(_Record):
    """A slot: its choices, which of them are legal, their absolute costs by metric, and the names of its sites.

    Of a skip, ``skip`` holds source and target, and ``skip_of_base`` says whether the base has it.
    """

    name: str
    choices: tuple[str, ...] = Field(min_length=1)
    legal: tuple[int, ...]
    costs: dict[str, tuple[FiniteFloat, ...]]
    sites: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    skip: tuple[int, int] | None = None
    skip_of_base: bool = False

    @model_validator(mode="after")
    def _whole(self) -> SlotRecord:
        if any(len(costs) != len(self.choices) for costs in self.costs.values()):
            raise ValueError(f"slot {self.name}: there is not one cost for each of its {len(self.choices)} choices")
        return self


class NetworkRecord(_Record):
    """One network: its base by ``model``, the input (C, H, W), the slots, the cost of all else, and the outline.

    ``path`` names the nodes of the main path, node 0 first, where skips are searched. ``vector`` has one entry for each
    slot, where it was known when the record was made.
    """

    name: str = ""
    model: str
    input: tuple[int, ...]
    slots: tuple[SlotRecord, ...] = ()
    fixed: dict[str, FiniteFloat] = Field(default_factory=dict)
    nodes: tuple[NodeRecord, ...] = ()
    path: tuple[str, ...] = ()
    vector: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _earlier(self) -> NetworkRecord:
        for index, node in enumerate(self.nodes):
            if any(not 0 <= source < index for source in node.inputs):
                raise ValueError(f"node {index} ({node.name}) takes the output of a node that is not before it")
        if self.vector is not None:
            self.check(self.vector)
        return self

    def check(self, entries: Sequence[int]) -> None:
        """Refuse entries that are not one choice for each slot (``ValueError``)."""
        if len(entries) != len(self.slots):
            raise ValueError(f"there are {len(entries)} entries for {len(self.slots)} slots")
        for entry, slot in zip(entries, self.slots, strict=True):
            if not 0 <= entry < len(slot.choices):
                raise ValueError(f"slot {slot.name} has no choice {entry}")

    def entries(self, described: Mapping[str, Any]) -> tuple[int, ...]:
        """One entry for each slot, of a vector as :meth:`~narfx.space.space.SearchSpace.describe` describes it.

        Raises:
            ValueError: It is no vector of this network.
        """
        others = iter(described["vector"])
        given = described.get("skips")
        opened = None if given is None else {tuple(pair) for pair in given}
        found = []
        for slot in self.slots:
            if slot.skip is None:
                found.append(int(next(others, -1)))
            else:
                is_open = slot.skip_of_base if opened is None else slot.skip in opened
                found.append(int(is_open != slot.skip_of_base))
        if next(others, None) is not None:
            raise ValueError(f"the vector has more entries than the {len(self.slots)} slots take")
        self.check(found)
        return tuple(found)

    def cost(self, entries: Iterable[int], metric: str) -> float:
        """The cost of the whole network."""
        return self.fixed.get(metric, 0) + sum(
            slot.costs[metric][entry] for slot, entry in zip(self.slots, entries, strict=True) if metric in slot.costs
        )


def slot_records(space: SearchSpace) -> tuple[SlotRecord, ...]:
    """The slots of a space as records."""
    return tuple(_slot(slot) for slot in space.slots)


def _slot(slot: Slot) -> SlotRecord:
    return SlotRecord(
        name=slot.name,
        choices=slot.choices,
        legal=slot.legal,
        costs={metric: tuple(map(float, costs)) for metric, costs in slot.costs.items()},
        sites=tuple(site.name for site in slot.sites),
        kinds=tuple(site.kind for site in slot.sites),
        shapes=tuple("x".join(map(str, site.output_shape)) for site in slot.sites),
        skip=None if slot.skip is None else (slot.skip.source, slot.skip.target),
        skip_of_base=slot.skip is not None and slot.skip.base,
    )
