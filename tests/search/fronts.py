"""Random spaces, a reward with one best vector, and the front that a search finds on it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from narfx.search import Result, make_strategy
from narfx.search.goals import archive_hypervolume
from narfx.space.budget import Budget
from narfx.space.records import Slot, Vector
from narfx.space.space import SearchSpace


def earned(vector: Vector) -> float:
    """A reward that differs for nearly all vectors."""
    return float(sum(math.sin(1.7 * slot + 2.9 * entry) for slot, entry in enumerate(vector)))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Up to 6 slots of up to 4 choices, some of them not legal, with up to two costs, each under a bound or free."""
    metrics = draw(st.sampled_from([(), ("macs",), ("macs", "params")]))
    slots = []
    for index in range(draw(st.integers(1, 6))):
        choices = draw(st.integers(1, 4))
        legal = tuple(sorted(draw(st.sets(st.integers(0, choices - 1), min_size=1))))
        costs = {m: tuple(float(draw(st.integers(0, 9))) for _ in range(choices)) for m in metrics}
        names = tuple(f"c{k}" for k in range(choices))
        slots.append(Slot(f"slot{index}", (), legal, {}, costs, choices=names))
    space = SearchSpace(("base",), tuple(slots), dict.fromkeys(metrics, 1.0))
    # A vector is drawn that meets the bounds, so that there is one.
    inside = tuple(draw(st.sampled_from(slot.legal)) for slot in slots)
    bounds = {m: cost for m, cost in space.cost(inside).items() if draw(st.booleans())}
    return space.within(Budget(bounds))


def found_volume(name: str, seed: int, evaluations: int, **options: Any) -> float:
    """The hypervolume of what a search found where each slot's choices differ in worth, and dearer ones are better."""
    space, rng = SearchSpace.uniform(10, 4), np.random.default_rng(seed)
    worth = rng.normal(size=(10, 4)) + np.linspace(1, 0, 4)
    strategy = make_strategy(name, space, seed=seed, **options)
    for _ in range(evaluations // 5):
        proposals = strategy.ask(5)
        rewards = [0.5 + 0.02 * float(worth[range(10), proposal.vector].sum()) for proposal in proposals]
        strategy.tell(proposals, [Result(reward) for reward in rewards])
    return archive_hypervolume(space, strategy.archive(), ("macs",))
