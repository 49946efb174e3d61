"""Sites, slots and the search space, as plain records: nothing here imports torch.

A cost is a mapping from metric to number. ``params`` counts parameters, ``macs`` multiply-accumulates of one sample;
further metrics (a latency in milliseconds) need no change here, because every metric is additive over slots.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.budget import Budget, unknown_metric
from narfx.space.knapsack import knapsack
from narfx.space.records import Cost, Site, Skip, Slot, Vector
from narfx.support.text import count

__all__ = ["SearchSpace"]


@dataclass(frozen=True)
class SearchSpace:
    """The slots with their legal operators and costs: everything that a strategy sees.

    Where the skip domain is searched, one slot a possible skip stands behind the slots of operators, so that one
    vector holds both and every strategy, budget and mask covers both.

    ``fixed`` is the cost of all that no slot can change, so that ``cost`` is the cost of the whole network.
    ``impossible`` holds the pairs (t, j) that no skip can join, with the reasons.
    """

    operators: tuple[str, ...]
    slots: tuple[Slot, ...]
    fixed: Cost = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    impossible: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @classmethod
    def uniform(cls, slots: int, operators: int, *, skips: bool = False) -> SearchSpace:
        """A space without a model: every operator legal at every slot, costs 1 for the base down to 0.

        With ``skips`` the slots are the nodes of a chain, and every pair (t, j) with 1 <= t <= j - 2 is a possible
        skip that the base does not have and that costs nothing.
        """
        names = ("base", *(f"op{index}" for index in range(1, operators)))
        step = 1.0 / max(operators - 1, 1)
        costs = {"macs": tuple(1.0 - step * index for index in range(operators))}
        chosen = [Slot(f"slot{i}", (), tuple(range(operators)), {}, costs) for i in range(slots)]
        pairs = [(t, j) for j in range(1, slots + 1) for t in range(1, j - 1)] if skips else []
        free = {"macs": (0.0, 0.0)}
        opened = [Slot(f"skip {t}->{j}", (), (0, 1), {}, free, Skip(t, j)) for t, j in pairs]
        return cls(names, (*chosen, *opened))

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def skip_slots(self) -> tuple[int, ...]:
        """The indices of the slots that are skips; they stand behind all others, ordered by target, then source."""
        return tuple(index for index, slot in enumerate(self.slots) if slot.skip is not None)

    def split(self, vector: Sequence[int]) -> tuple[Vector, tuple[tuple[int, int], ...] | None]:
        """A legal vector as its operator entries and the skips (t, j) that are open.

        The skips are ``None`` in a space without the skip domain: then they are the base's.
        """
        operators = tuple(entry for entry, slot in zip(vector, self.slots, strict=True) if slot.skip is None)
        pairs = [(slot.skip, entry) for entry, slot in zip(vector, self.slots, strict=True) if slot.skip is not None]
        if not pairs:
            return operators, None
        return operators, tuple((skip.source, skip.target) for skip, entry in pairs if skip.base != bool(entry))

    def join(self, operators: Sequence[int], skips: Iterable[Sequence[int]] | None) -> Vector:
        """The vector of these operator entries and open skips; the inverse of ``split``.

        Raises:
            UsageError: There are too few or too many entries, or a skip is given twice or is not one of the space's;
                the message says why. The entries themselves are checked by ``validate``.
        """
        known = {(slot.skip.source, slot.skip.target): slot.skip for slot in self.slots if slot.skip is not None}
        if len(operators) != len(self.slots) - len(known):
            raise UsageError(
                f"the vector has {_entries(operators)}, but the model has "
                f"{count(len(self.slots) - len(known), 'slot')}",
                kind="vector_length",
            )
        opened = [tuple(pair) for pair in skips] if skips is not None else [p for p, skip in known.items() if skip.base]
        for index, pair in enumerate(opened):
            if pair not in known:
                raise UsageError(
                    f"{list(pair)} is no possible skip of this network: {self._why_not(pair)}",
                    where="skips",
                    kind="unknown_skip",
                )
            if pair in opened[:index]:
                raise UsageError(f"the skip {list(pair)} is given twice", where="skips", kind="repeated_skip")
        return (*operators, *(int(skip.base != (pair in opened)) for pair, skip in known.items()))

    def _why_not(self, pair: tuple[int, ...]) -> str:
        known = [slot.skip for slot in self.slots if slot.skip is not None]
        if not known:
            return "its skip domain is not open"
        if pair in self.impossible:
            return self.impossible[pair[0], pair[1]]
        if pair[0] > pair[1] - 2:
            return "a skip [t, j] goes from node t to node j with t <= j - 2"
        ends = [*self.impossible, *((skip.source, skip.target) for skip in known)]
        return f"its nodes are {min(t for t, _ in ends)} to {max(j for _, j in ends)}"

    def describe(self, vector: Sequence[int]) -> dict[str, Any]:
        """A legal vector as it stands in files and results: ``vector``, and ``skips`` where the space has any."""
        operators, skips = self.split(vector)
        return {"vector": list(operators)} | ({} if skips is None else {"skips": [list(pair) for pair in skips]})

    def read(self, described: Mapping[str, Any]) -> Vector:
        """The vector that ``describe`` described; errors as for ``join``."""
        return self.join(described["vector"], described.get("skips"))

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites, slot by slot."""
        return tuple(site for slot in self.slots for site in slot.sites)

    @property
    def base(self) -> Vector:
        """The vector of the base network: all zeros."""
        return (0,) * len(self.slots)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the costs that are known at every slot."""
        return tuple(self.slots[0].costs) if self.slots else tuple(self.fixed)

    @property
    def size(self) -> int:
        """The number of legal vectors, the budget left aside."""
        count = 1
        for slot in self.slots:
            count *= len(slot.legal)
        return count

    def validate(self, vector: Sequence[object]) -> Vector:
        """Return ``vector`` as a tuple of legal indices.

        Raises:
            UsageError: It is no list, has the wrong length, an entry that is no integer, an index out of range or an
                operator that its slot refuses; the message names the slot and the reason.
        """
        try:
            vector = list(vector)
        except TypeError:
            raise UsageError(
                f"a vector is a list of one integer a slot, not {vector!r:.60}", kind="vector_entry"
            ) from None
        if len(vector) != len(self.slots):
            skips = len(self.skip_slots)
            slots = count(len(self.slots) - skips, "slot") + (f" and {count(skips, 'possible skip')}" if skips else "")
            raise UsageError(f"the vector has {_entries(vector)}, but the model has {slots}", kind="vector_length")
        checked = []
        for index, (given, slot) in enumerate(zip(vector, self.slots, strict=True)):
            where = f"slot {index} ({slot.name})"
            entry = _integer(given, where)
            if slot.skip is not None:
                if entry not in slot.legal:
                    raise UsageError(
                        f"entry {entry} at {where} is not legal: a skip has "
                        f"{' or '.join(map(str, slot.legal))}, 0 being as the base has it and 1 the other way round",
                        where=where,
                        kind="vector_illegal",
                    )
                checked.append(entry)
                continue
            if not 0 <= entry < len(self.operators):
                raise UsageError(
                    f"operator index {entry} at {where} is out of range: there are {len(self.operators)} operators, "
                    f"{', '.join(f'{i} {name}' for i, name in enumerate(self.operators))}",
                    where=where,
                    kind="vector_index",
                )
            if entry not in slot.legal:
                reason = slot.refused.get(entry, "this stage of the search left it out")
                raise UsageError(
                    f"operator {entry} ({self.operators[entry]}) is not legal at {where}: {reason}",
                    where=where,
                    kind="vector_illegal",
                )
            checked.append(entry)
        return tuple(checked)

    def cost(self, vector: Sequence[int]) -> dict[str, float]:
        """The cost of the whole network with ``vector``; the entries are not checked."""
        return {
            metric: self.fixed.get(metric, 0)
            + sum(slot.costs[metric][entry] for slot, entry in zip(self.slots, vector, strict=True))
            for metric in self.metrics
        }

    def least(self, metric: str) -> float:
        """The lowest cost of any legal vector in one metric."""
        return self.fixed.get(metric, 0) + sum(min(s.costs[metric][k] for k in s.legal) for s in self.slots)

    def most(self, metric: str) -> float:
        """The highest cost of any legal vector in one metric."""
        return self.fixed.get(metric, 0) + sum(max(s.costs[metric][k] for k in s.legal) for s in self.slots)

    def feasible(self, vector: Sequence[int]) -> bool:
        """Whether the whole network with ``vector`` meets the budget."""
        return self.budget.met_by(self.cost(vector))

    def allowed(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """The operators for the slot behind ``prefix`` from which each constraint, taken alone, can still be met."""
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
        """A narrower space: at each slot named, only these operators (names or indices) remain legal.

        Raises:
            UsageError: A slot or operator does not exist, or nothing legal would remain at a slot.
            InfeasibleBudgetError: What remains cannot meet the space's budget.
        """
        slots = list(self.slots)
        for index, kept in choices.items():
            if not 0 <= index < len(slots):
                raise UsageError(
                    f"there is no slot {index}: the space has {count(len(slots), 'slot')}", kind="unknown_slot"
                )
            wanted = {self.index(entry) for entry in kept}
            legal = tuple(k for k in slots[index].legal if k in wanted)
            if not legal:
                raise UsageError(f"nothing legal would remain at slot {index} ({slots[index].name})", kind="empty_slot")
            slots[index] = replace(slots[index], legal=legal)
        return replace(self, slots=tuple(slots)).within(self.budget)

    def index(self, operator: str | int) -> int:
        """The index of an operator given by name or index; ``UsageError`` if there is none."""
        if isinstance(operator, int) and 0 <= operator < len(self.operators):
            return operator
        if operator in self.operators:
            return self.operators.index(str(operator))
        raise UsageError(
            f"unknown operator {operator!r}: this space has {', '.join(self.operators)}", kind="unknown_operator"
        )

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
                    f"no architecture meets {metric}<={_amount(metric, bound)}: the cheapest has "
                    f"{_amount(metric, self.least(metric))} "
                    f"({self.least(metric) / self.cost(self.base)[metric]:.3f} of the base); raise the budget",
                    where=metric,
                )
        space = replace(self, budget=budget)
        if (
            len(budget.bounds) > 1
            and next(knapsack(space.slots, space.fixed, budget.bounds, space.feasible), None) is None
        ):
            raise InfeasibleBudgetError(f"each bound of {budget} can be met alone, but no architecture meets all")
        return space

    def lines(self) -> list[str]:
        """One line a site and one a possible skip: what the fingerprint is made of, what a difference is shown in."""
        sites = [
            f"slot {index} {site.signature()} operators {','.join(self.operators[k] for k in slot.legal)}"
            for index, slot in enumerate(self.slots)
            for site in slot.sites
        ]
        skips = [(slot.name, slot.skip) for slot in self.slots if slot.skip is not None]
        return [*sites, *(f"{name} {'base' if skip.base else 'new'} {skip.signature}" for name, skip in skips)]

    def fingerprint(self) -> str:
        """A hash of the site records; code, weights and versions do not enter."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()[:16]


def _amount(metric: str, value: float) -> str:
    return f"{value:.4g} ms" if metric == "latency" else f"{value:,.0f}"


def _entries(vector: Sequence[object]) -> str:
    return f"{len(vector)} entr{'y' if len(vector) == 1 else 'ies'}"


def _integer(entry: object, where: str) -> int:
    """An entry of a vector as an ``int``: Python's or numpy's integer, but no bool and no float."""
    try:
        if not isinstance(entry, bool):
            return operator.index(entry)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise UsageError(f"entry {entry!r} at {where} is not an integer", where=where, kind="vector_entry")
