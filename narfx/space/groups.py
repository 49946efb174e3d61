"""Groups of operators that resemble each other, by name, and the two narrowings of StacNAS (arXiv 1909.11926)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.records import Site, Slot, Vector
from narfx.space.space import SearchSpace
from narfx.space.strongest import NONE

__all__ = ["Groups", "operator_family"]

_SIZE = re.compile(r"(_?\d+x\d+)+$")


def operator_family(name: str) -> str:
    """The name without its kernel size, all pools alike, and ``base`` as the convolution that it is."""
    plain = _SIZE.sub("", name)
    return "pool" if "pool" in plain else "conv" if plain == "base" else plain


@dataclass(frozen=True)
class Groups:
    """Groups of choices by name; without any, operators are grouped by their family (:func:`operator_family`).

    A choice that no group names is a group of its own, and so is ``none`` always. The first member that is legal at a
    slot represents its group there.
    """

    named: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Groups:
        """Read groups with commas between and ``/`` between their members; an empty text gives the families.

        Raises:
            UsageError: A name is empty, stands there twice, or is ``none`` beside others.
        """
        named = tuple(tuple(name.strip() for name in group.split("/")) for group in text.split(",")) if text else ()
        flat = [name for group in named for name in group]
        wrong = next((name for name in flat if not name or flat.count(name) > 1), None)
        if wrong is not None or any(NONE in group and len(group) > 1 for group in named):
            raise _bad(
                f"cannot read the groups {text!r}: write max_pool_3x3/avg_pool_3x3,sep_conv_3x3/sep_conv_5x5, each "
                "name once, and none in no group with others"
            )
        return cls(named)

    def __str__(self) -> str:
        return ",".join("/".join(group) for group in self.named)

    def check(self, space: SearchSpace) -> None:
        """Refuse a group that would be empty in a space.

        Raises:
            UsageError: No slot of the space offers any of its operators.
        """
        offered = {slot.choices[k] for slot in space.slots for k in slot.legal}
        for group in self.named:
            if not offered & set(group):
                raise _bad(
                    f"the group {'/'.join(group)} would be empty: no slot of this space offers any of its operators; "
                    f"there are {', '.join(sorted(offered))}"
                )

    def of(self, slot: Slot) -> list[tuple[int, ...]]:
        """The legal choices of a slot by group, the representative of each first."""
        places = {slot.choices[k]: k for k in slot.legal}
        found = [tuple(places.pop(name) for name in group if name in places) for group in self.named]
        families: dict[str, list[int]] = {}
        for name, k in places.items():
            alone = self.named or slot.skip is not None or name == NONE or not _alike(slot, name)
            families.setdefault(f"={name}" if alone else operator_family(name), []).append(k)
        return [group for group in (*found, *map(tuple, families.values())) if group]

    def representatives(self, space: SearchSpace) -> SearchSpace:
        """The space of stage 1: at each slot one choice a group, at the cost of the cheapest member of the group.

        So a budget that a vector of groups meets is one that their members can meet, whichever is dearer.

        Raises:
            UsageError: A group is empty in the space, or no slot has two groups.
        """
        self.check(space)
        groups = [self.of(slot) for slot in space.slots]
        if all(len(own) == 1 for own in groups):
            raise _bad(
                "there is one group at each slot, so stage 1 has nothing to choose: give groups that set operators "
                "apart (--strategy-option groups=...)"
            )
        slots = tuple(_cheapest(slot, own) for slot, own in zip(space.slots, groups, strict=True))
        return replace(space, slots=slots).within(space.budget)

    def members(self, space: SearchSpace, vectors: Sequence[Vector]) -> SearchSpace:
        """The space of stage 2: at each slot the group that the first of these vectors has there, and ``none``.

        Where several bounds leave no member of these groups, the next vector's are taken.

        Raises:
            InfeasibleBudgetError: No vector of groups can meet the budget.
        """
        failed: InfeasibleBudgetError | None = None
        for vector in vectors:
            try:
                return space.restrict(dict(enumerate(map(self.around, space.slots, vector))))
            except InfeasibleBudgetError as error:
                failed = failed or error
        raise failed or InfeasibleBudgetError("stage 1 found no vector of groups: give it more epochs")

    def around(self, slot: Slot, entry: int) -> tuple[int, ...]:
        """The group of a slot that has this choice, and ``none``, where that is legal."""
        return self.with_none(slot, next(own for own in self.of(slot) if entry in own))

    def with_none(self, slot: Slot, group: Sequence[int]) -> tuple[int, ...]:
        """A group of a slot and ``none``, where that is legal: what competes in stage 2."""
        return (*group, *(k for k in slot.legal if slot.choices[k] == NONE and k not in group))


def _alike(slot: Slot, name: str) -> bool:
    """Whether the name says what a choice is: ``base`` does so of a convolution alone."""
    return name != "base" or any(isinstance(site, Site) for site in slot.sites)


def _cheapest(slot: Slot, groups: Sequence[tuple[int, ...]]) -> Slot:
    costs = {}
    for metric, own in slot.costs.items():
        changed = list(own)
        for group in groups:
            changed[group[0]] = min(own[k] for k in group)
        costs[metric] = tuple(changed)
    return replace(slot, legal=tuple(sorted(group[0] for group in groups)), costs=costs)


def _bad(message: str) -> UsageError:
    return UsageError(message, where="groups", kind="bad_groups")
