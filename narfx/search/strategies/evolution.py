"""Regularised evolution (Real et al., arXiv 1802.01548): tournament selection, one mutation, the oldest dies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from narfx.search.option_checks import whole
from narfx.search.population import Member, PopulationStrategy
from narfx.search.registry import register_strategy
from narfx.search.strategy import Proposal, Result
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace

__all__ = ["Evolution"]

_TRIES = 200


class Evolution(PopulationStrategy):
    """The last ``population`` evaluated vectors are the population; a proposal is a mutated winner of a tournament.

    The population is filled with uniform draws first. A mutation gives one slot another operator; one that breaks the
    budget is made again.

    Args:
        space: The slots and the budget.
        seed: Of all draws.
        population: How many live at a time.
        tournament: How many compete to become a parent.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, population: int = 20, tournament: int = 10) -> None:
        super().__init__(space, seed)
        self._size = whole("population", population, least=1)
        self._tournament = whole("tournament", tournament, least=1)
        if self._tournament > self._size:
            raise ValueError(f"tournament is {tournament}, and must not be above population, {population}")
        self._population: deque[Member] = deque(maxlen=self._size)

    def ask(self, n: int) -> list[Proposal]:
        """``n`` children of the present population, or uniform draws while it is not full."""
        # A sampler learns that a budget is tight, and a resumed strategy must not know less: a new one each time.
        sampler = FeasibleSampler(self._space)
        if len(self._population) < self._size:
            return [Proposal(sampler.draw(self._rng)) for _ in range(n)]
        return [Proposal(self._mutated(self._parent()) or sampler.draw(self._rng)) for _ in range(n)]

    def _parent(self) -> Vector:
        rivals = self._rng.choice(self._size, self._tournament, replace=False)
        return max((self._population[index] for index in rivals), key=lambda member: member[1])[0]

    def _mutated(self, vector: Vector) -> Vector | None:
        for _ in range(_TRIES if self._mutable else 0):
            slot = int(self._rng.choice(self._mutable))
            others = [k for k in self._space.slots[slot].legal if k != vector[slot]]
            child = (*vector[:slot], int(self._rng.choice(others)), *vector[slot + 1 :])
            if self._space.feasible(child):
                return child
        return None

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """Add the evaluated vectors and drop the oldest; returns ``reward``, the batch's mean."""
        vectors, rewards = self._history.add(proposals, results)
        self._population.extend(
            (vector, reward) for vector, reward in zip(vectors, rewards, strict=True) if self._history.feasible(vector)
        )
        return {"reward": sum(rewards) / len(rewards)} if rewards else {}

    def _members(self) -> Iterable[Member]:
        return self._population

    def _revive(self, members: Iterable[Member]) -> None:
        self._population.clear()
        self._population.extend(members)


register_strategy("evolution", Evolution)
