"""Small spaces with a reward for each vector, and strategies that are taught it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from narfx.search import Proposal, Result, Strategy
from narfx.space.budget import Budget
from narfx.space.records import Slot, Vector
from narfx.space.space import SearchSpace


def two_bounds() -> SearchSpace:
    """Each bound leaves much, both leave little: what is cheap in one metric is dear in the other."""
    costs = {"macs": (3.0, 2.0, 0.0), "params": (0.0, 2.0, 3.0)}
    names = ("base", "op1", "op2")
    slots = tuple(Slot(f"slot{i}", (), (0, 1, 2), {}, costs, choices=names) for i in range(6))
    space = SearchSpace(names, slots, {"macs": 1.0})
    return space.within(Budget({"macs": 10.0, "params": 9.0}))


SPACES: dict[str, Callable[[], SearchSpace]] = {
    "free": lambda: SearchSpace.uniform(8, 3),
    "budget": lambda: SearchSpace.uniform(16, 4).within(Budget({"macs": 5.0})),
    "two bounds": two_bounds,
    "restricted": lambda: SearchSpace.uniform(6, 4).restrict({0: [2], 3: [1, 3], 5: [0]}),
    "one vector": lambda: SearchSpace.uniform(3, 2).restrict({0: [1], 1: [0], 2: [1]}),
    "skips": lambda: SearchSpace.uniform(5, 3, skips=True),
    "only the cheapest": lambda: SearchSpace.uniform(4, 3).within(Budget({"macs": 0.0})),
}


def earned(vector: Vector) -> float:
    """A reward that has one best vector, and differs for nearly all."""
    return float(sum(math.sin(1.7 * slot + 2.9 * entry) for slot, entry in enumerate(vector)))


def teach(strategy: Strategy, steps: int, lot: int = 5, reward: Callable[[Vector], float] = earned) -> list[Any]:
    """Ask and tell; returns the metrics of each step."""
    metrics = []
    for _ in range(steps):
        proposals = strategy.ask(lot)
        metrics.append(strategy.tell(proposals, [Result(reward(proposal.vector)) for proposal in proposals]))
    return metrics


def vectors(proposals: Sequence[Proposal]) -> list[Vector]:
    return [proposal.vector for proposal in proposals]
