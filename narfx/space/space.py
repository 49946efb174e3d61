"""The search space: the slots of a vector, what is legal, what it costs, and what the budget allows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.budget import Budget, unknown_metric
from narfx.space.knapsack import knapsack
from narfx.space.notebook import amount, slot_table
from narfx.space.records import AnySite, Cost, Skip, Slot, Vector
from narfx.space.skips import join_vector, split_vector
from narfx.space.vectors import check_vector, choice_index
from narfx.support.text import count

__all__ = ["SearchSpace"]


@dataclass(frozen=True, repr=False)
class SearchSpace:
    """The slots with their choices, what is legal and what it costs: everything that a strategy sees.

    Every decision is a slot, a possible skip as much as an operator, so that one vector holds them all and every
    strategy, budget and mask covers them all. What an entry means, its slot says (``Slot.choices``).

    ``operators`` is the list from which the sites of convolutions choose.
    ``fixed`` is the cost of all that no slot can change, so that ``cost`` is the cost of the whole network.
    ``impossible`` holds the pairs (t, j) that no skip can join, with the reasons.
    """

    operators: tuple[str, ...]
    slots: tuple[Slot, ...]
    fixed: Cost = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    impossible: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @classmethod
    def uniform(cls, slots: int, operators: int | Sequence[int], *, skips: bool = False) -> SearchSpace:
        """A space without a model: every choice legal at every slot, costs 1 for the base down to 0.

        Args:
            slots: How many.
            operators: How many choices every slot has, or one such number for each slot.
            skips: Whether the slots are the nodes of a chain, and every pair (t, j) with 1 <= t <= j - 2 is a possible
                skip that the base does not have and that costs nothing.
        """
        sizes = [operators] * slots if isinstance(operators, int) else [*operators]
        if len(sizes) != slots:
            raise UsageError(
                f"uniform: there are {count(slots, 'slot')}, but {count(len(sizes), 'number')} of operators",
                where="operators",
                kind="bad_option",
            )
        longest = operators if isinstance(operators, int) else max(sizes, default=1)
        names = ("base", *(f"op{index}" for index in range(1, longest)))
        chosen = [_uniform_slot(f"slot{i}", names[:size]) for i, size in enumerate(sizes)]
        pairs = [(t, j) for j in range(1, slots + 1) for t in range(1, j - 1)] if skips else []
        return cls(names, (*chosen, *(_free_skip(Skip(t, j)) for t, j in pairs)))

    def __len__(self) -> int:
        return len(self.slots)

    def __repr__(self) -> str:
        skips = f" and {count(len(self.skip_slots), 'possible skip')}" if self.skip_slots else ""
        slots = f"{count(len(self) - len(self.skip_slots), 'slot')}{skips}"
        operators = ", ".join(self.operators)
        return f"SearchSpace({slots}, operators {operators}, {self.size:.3g} vectors, budget {self.budget})"

    def _repr_html_(self) -> str:
        return slot_table(repr(self), self.slots)

    @property
    def skip_slots(self) -> tuple[int, ...]:
        """The indices of the slots that are skips; in a traced space after all others, by target, then source."""
        return tuple(index for index, slot in enumerate(self.slots) if slot.skip is not None)

    def split(self, vector: Sequence[int]) -> tuple[Vector, tuple[tuple[int, int], ...] | None]:
        """A legal vector as the entries of its other slots and the skips (t, j) that are open.

        The skips are ``None`` in a space without the skip domain: then they are the base's.
        """
        return split_vector(self.slots, vector)

    def join(self, operators: Sequence[int], skips: Iterable[Sequence[int]] | None) -> Vector:
        """The vector of these entries and open skips; the inverse of ``split``.

        Raises:
            UsageError: There are too few or too many entries, or a skip is given twice or is not one of the space's;
                the message says why. The entries themselves are checked by ``validate``.
        """
        return join_vector(self.slots, self.impossible, operators, skips)

    def describe(self, vector: Sequence[int]) -> dict[str, Any]:
        """A legal vector as it stands in files and results: ``vector``, and ``skips`` where the space has any."""
        operators, skips = self.split(vector)
        return {"vector": list(operators)} | ({} if skips is None else {"skips": [list(pair) for pair in skips]})

    def read(self, described: Mapping[str, Any]) -> Vector:
        """The vector that ``describe`` described; errors as for ``join``."""
        return self.join(described["vector"], described.get("skips"))

    @property
    def sites(self) -> tuple[AnySite, ...]:
        """All sites, slot by slot."""
        return tuple(site for slot in self.slots for site in slot.sites)

    @property
    def base(self) -> Vector:
        """The vector of the base network: all zeros. In a restricted space it may not be legal."""
        return (0,) * len(self.slots)

    @property
    def start(self) -> Vector:
        """A legal vector to start from: as the base at each slot where that is legal, else the first legal index.

        The budget is left aside.
        """
        return tuple(0 if 0 in slot.legal else slot.legal[0] for slot in self.slots)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the costs that are known at every slot."""
        return tuple(self.slots[0].costs) if self.slots else tuple(self.fixed)

    @property
    def size(self) -> int:
        """The number of legal vectors, the budget left aside."""
        return math.prod(len(slot.legal) for slot in self.slots)

    def validate(self, vector: Sequence[object]) -> Vector:
        """Return ``vector``, of indices or names of choices, as a tuple of legal indices.

        Raises:
            UsageError: It is no list, has the wrong length, an entry that is neither index nor name, an index out of
                range or a choice that its slot refuses; the message names the slot and the reason.
        """
        return check_vector(self.slots, vector)

    def unrestricted(self) -> SearchSpace:
        """The space before any ``restrict``: every choice that a slot does not refuse is legal."""
        slots = (
            replace(slot, legal=tuple(k for k in range(len(slot.choices)) if k not in slot.refused))
            for slot in self.slots
        )
        return replace(self, slots=tuple(slots))

    def index(self, slot: int, choice: str | int) -> int:
        """The index of a slot's choice, given by name or index (``base`` is 0 at every slot).

        Raises:
            UsageError: There is no such slot, or it has no such choice.
        """
        return choice_index(self._slot(slot), slot, choice)

    def _slot(self, index: int) -> Slot:
        if index not in range(len(self.slots)):
            raise UsageError(
                f"there is no slot {index}: the space has {count(len(self.slots), 'slot')}", kind="unknown_slot"
            )
        return self.slots[index]

    def cost(self, vector: Sequence[int | str]) -> dict[str, float]:
        """The cost of the whole network with ``vector``; indices are not checked, names are."""
        entries = self.validate(vector) if str in map(type, vector) else cast("Sequence[int]", vector)
        return {
            metric: self.fixed.get(metric, 0)
            + sum(slot.costs[metric][entry] for slot, entry in zip(self.slots, entries, strict=True))
            for metric in self.metrics
        }

    def least(self, metric: str) -> float:
        """The lowest cost of any legal vector in one metric."""
        return self.fixed.get(metric, 0) + sum(min(s.costs[metric][k] for k in s.legal) for s in self.slots)

    def most(self, metric: str) -> float:
        """The highest cost of any legal vector in one metric."""
        return self.fixed.get(metric, 0) + sum(max(s.costs[metric][k] for k in s.legal) for s in self.slots)

    def feasible(self, vector: Sequence[int]) -> bool:
        """Whether the whole network with ``vector``, which is legal, meets the budget."""
        return self.budget.met_by(self.cost(vector))

    def allowed(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """The choices for the slot after ``prefix`` from which each constraint, taken alone, can still be met."""
        here, later = self.slots[len(prefix)], self.slots[len(prefix) + 1 :]
        allowed = here.legal
        for metric, bound in self.budget.bounds.items():
            fixed = self.fixed.get(metric, 0)
            spent = [slot.costs[metric][entry] for slot, entry in zip(self.slots, prefix, strict=False)]
            rest = [min(slot.costs[metric][k] for k in slot.legal) for slot in later]
            # Summed in the order of `cost`, so that rounding never shuts out the last vector that fits.
            allowed = tuple(k for k in allowed if fixed + sum([*spent, here.costs[metric][k], *rest]) <= bound)
        return allowed

    def restrict(self, choices: Mapping[int, Iterable[str | int]]) -> SearchSpace:
        """A narrower space: at each slot named, only these of its choices (names or indices) remain legal.

        Raises:
            UsageError: A slot or choice does not exist, or nothing legal would remain at a slot.
            InfeasibleBudgetError: What remains cannot meet the space's budget.
        """
        slots = list(self.slots)
        for index, kept in choices.items():
            slot = self._slot(index)
            wanted = {choice_index(slot, index, choice) for choice in kept}
            legal = tuple(k for k in slot.legal if k in wanted)
            if not legal:
                raise UsageError(
                    f"nothing legal would remain at slot {index} ({slot.name}): keep at least one of its legal choices",
                    kind="empty_slot",
                )
            slots[index] = replace(slot, legal=legal)
        return replace(self, slots=tuple(slots)).within(self.budget)

    def within(self, budget: Budget) -> SearchSpace:
        """The same space under a budget.

        Raises:
            InfeasibleBudgetError: No legal vector meets it; the message gives the lowest cost there is.
            UsageError: The budget bounds a metric that the space does not know.
        """
        for metric, bound in budget.bounds.items():
            if metric not in self.metrics:
                raise unknown_metric(metric, self.metrics)
            if self.least(metric) > bound:
                raise InfeasibleBudgetError(
                    f"no architecture meets {metric}<={amount(metric, bound)}: the cheapest has "
                    f"{amount(metric, self.least(metric))}{self._share(metric)}; raise the budget",
                    where=metric,
                )
        space = replace(self, budget=budget)
        if (
            len(budget.bounds) > 1
            and next(knapsack(space.slots, space.fixed, budget.bounds, space.feasible), None) is None
        ):
            raise InfeasibleBudgetError(
                f"each bound of {budget} can be met alone, but no architecture meets all: raise one of them"
            )
        return space

    def _share(self, metric: str) -> str:
        base = self.cost(self.base)[metric]
        return f" ({self.least(metric) / base:.3f} of the base)" if base else ""

    def own_choices(self, slot: Slot) -> dict[str, list[str]]:
        """``choices`` of a slot for a report, or nothing where they are the space's operators."""
        return {} if slot.choices == self.operators else {"choices": list(slot.choices)}

    def lines(self) -> list[str]:
        """What the fingerprint is made of and a difference is shown in: a line for each site, then for each skip.

        A slot that has neither has a line of its own.
        """
        sites = [line for index, slot in enumerate(self.slots) if slot.skip is None for line in self._of(index, slot)]
        skips = [(slot.name, slot.skip) for slot in self.slots if slot.skip is not None]
        return [*sites, *(f"{name} {'base' if skip.base else 'new'} {skip.signature}" for name, skip in skips)]

    def _of(self, index: int, slot: Slot) -> Iterator[str]:
        offered = ",".join(slot.choices[k] for k in slot.legal)
        # The space's operators are known (an arch.json has them), so that only another list need be written out.
        known = "" if slot.choices == self.operators else f" of {','.join(slot.choices)}"
        for what in [site.signature() for site in slot.sites] or [slot.name]:
            yield f"slot {index} {what} operators {offered}{known}"

    def fingerprint(self) -> str:
        """A hash of the site records; code, weights and versions do not enter."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()[:16]


def _uniform_slot(name: str, choices: tuple[str, ...]) -> Slot:
    step = 1.0 / max(len(choices) - 1, 1)
    costs = {"macs": tuple(1.0 - step * index for index in range(len(choices)))}
    return Slot(name, (), tuple(range(len(choices))), {}, costs, choices=choices)


def _free_skip(skip: Skip) -> Slot:
    free = {"macs": (0.0, 0.0)}
    return Slot(f"skip {skip.source}->{skip.target}", (), (0, 1), {}, free, skip, choices=skip.choices)
