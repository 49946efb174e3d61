"""NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 6(2), 2002) on the reward and the costs.

The code is narfx's own. pymoo, a well-kept library, has NSGA-II, but it saves a search by pickling the whole
algorithm, which a checkpoint of narfx may not hold. It breeds whole generations, while a strategy is asked for batches
of any size and is told results that it never asked for. What is left without these is short.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np

from narfx.search.goals import cost_names, gains
from narfx.search.option_checks import share, whole
from narfx.search.population import Member, PopulationStrategy
from narfx.search.registry import register_strategy
from narfx.search.strategy import Proposal, Result
from narfx.space.dominance import crowding, ranks
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace

__all__ = ["Nsga2"]

_TRIES = 50


class Nsga2(PopulationStrategy):
    """A population that is kept by rank of non-domination, and within a rank by crowding distance.

    The population is filled with uniform draws first. Then a proposal is a child: two tournaments of two choose the
    parents, each entry comes from either, and each slot mutates with a chance of 1 / slots. A child that breaks the
    budget is bred again, and so is one that was evaluated, as long as others are found. Children join the population
    batch by batch (the steady-state form), not generation by generation.

    Args:
        space: The slots and the budget.
        seed: Of all draws.
        population: How many live at a time.
        crossover: The chance that a child has two parents.
        costs: The costs that are minimised beside the reward, with commas between; by default MACs, or the
            first one. A search with a front gives those of the front.
    """

    def __init__(
        self, space: SearchSpace, *, seed: int = 0, population: int = 20, crossover: float = 0.9, costs: str = ""
    ) -> None:
        super().__init__(space, seed)
        self._size = whole("population", population, least=2)
        self._crossover = share("crossover", crossover)
        self._costs = cost_names(space, costs)
        self._population: dict[Vector, float] = {}
        self._fitness: dict[Vector, tuple[int, float]] = {}

    def ask(self, n: int) -> list[Proposal]:
        """``n`` children of the present population, or uniform draws while it is not full."""
        # A sampler learns that a budget is tight, and a resumed strategy must not know less: a new one each time.
        sampler = FeasibleSampler(self._space)
        found: list[Vector] = []
        for _ in range(n):
            child = self._child(found) if len(self._population) >= self._size else None
            found.append(child or sampler.draw(self._rng))
        return [Proposal(vector) for vector in found]

    def _child(self, siblings: Container[Vector]) -> Vector | None:
        """A child that is new, else the last one that fits, else nothing."""
        fits: Vector | None = None
        for _ in range(_TRIES):
            child = self._bred()
            if not self._space.feasible(child):
                continue
            if child not in self._history and child not in siblings:
                return child
            fits = child
        return fits

    def _bred(self) -> Vector:
        one, other = self._parent(), self._parent()
        child = np.array(one)
        if self._rng.random() < self._crossover:
            child = np.where(self._rng.random(len(child)) < 0.5, child, other)
        for slot in self._mutable:
            if self._rng.random() < 1 / len(self._mutable):
                legal = self._space.slots[slot].legal
                others = [k for k in legal if k != child[slot]]
                child[slot] = others[int(self._rng.integers(len(others)))]
        return tuple(child.tolist())

    def _parent(self) -> Vector:
        """The fitter of two: of lower rank, or else less crowded."""
        members = [*self._population]
        pair = self._rng.integers(len(members), size=2).tolist()
        return min((members[index] for index in pair), key=lambda vector: self._fitness[vector])

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """Add the evaluated vectors and keep the fittest.

        Returns:
            ``reward`` (the batch's mean) and ``front`` (how many of the population no other one dominates).
        """
        vectors, rewards = self._history.add(proposals, results)
        if not rewards:
            return {}
        told = zip(vectors, rewards, strict=True)
        self._population |= {vector: reward for vector, reward in told if self._history.feasible(vector)}
        self._select()
        return {
            "reward": sum(rewards) / len(rewards),
            "front": sum(rank == 0 for rank, _ in self._fitness.values()),
        }

    def _select(self) -> None:
        """Keep the fittest; then judge again those that are left, so that a resumed search knows the same."""
        keys = self._keys([*self._population])
        kept = sorted(self._population, key=lambda vector: keys[vector])[: self._size]
        self._population = {vector: self._population[vector] for vector in kept}
        self._fitness = self._keys(kept)

    def _keys(self, vectors: Sequence[Vector]) -> dict[Vector, tuple[int, float]]:
        """The rank of each and how far it is from its neighbours, as a key of which less is better."""
        costs = [self._history.cost(vector) for vector in vectors]
        points = gains([self._population[vector] for vector in vectors], costs, self._costs)
        rank, gap = ranks(points), np.zeros(len(vectors))
        for front in range(int(rank.max(initial=-1)) + 1):
            gap[rank == front] = crowding(points[rank == front])
        return {vector: (int(r), -float(g)) for vector, r, g in zip(vectors, rank, gap, strict=True)}

    def _members(self) -> Iterable[Member]:
        return self._population.items()

    def _revive(self, members: Iterable[Member]) -> None:
        self._population = dict(members)
        self._fitness = self._keys([*self._population])


register_strategy("nsga2", Nsga2)
