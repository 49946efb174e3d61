"""A vector that breaks the budget is moved to one that meets it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narfx.errors import InfeasibleBudgetError
from narfx.space.budget import Budget
from narfx.space.records import Slot
from narfx.space.repair import repaired
from narfx.space.space import SearchSpace


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 2), st.floats(0, 1))
def test_what_is_repaired_is_legal_and_meets_every_bound(seed: int, slots: int, bounds: int, room: float) -> None:
    rng = np.random.default_rng(seed)
    metrics = ("macs", "params")[:bounds]
    names = ("base", "op1", "op2")
    made = []
    for index in range(slots):
        legal = tuple(sorted(rng.choice(3, rng.integers(1, 4), replace=False).tolist()))
        costs = {metric: tuple(rng.uniform(0, 1, 3).tolist()) for metric in metrics}
        made.append(Slot(f"slot{index}", (), legal, {}, costs, choices=names))
    space = SearchSpace(names, tuple(made), dict.fromkeys(metrics, 0.5))
    inside, vector = (tuple(int(rng.choice(slot.legal)) for slot in made) for _ in range(2))
    space = space.within(Budget({m: cost + room * (space.most(m) - cost) for m, cost in space.cost(inside).items()}))
    scores = rng.uniform(0, 1, (slots, 3))
    found = repaired(space, vector, scores)
    assert space.validate(found) == found
    assert space.feasible(found)
    if space.feasible(vector):
        assert found == vector


def test_the_slot_that_matters_least_gives_way() -> None:
    space = SearchSpace.uniform(3, 2).within(Budget({"macs": 2.0}))
    scores = np.array([[0.9, 0.1], [0.6, 0.5], [0.8, 0.2]])
    assert repaired(space, (0, 0, 0), scores) == (0, 1, 0)


def test_a_slot_changes_back_where_there_is_room() -> None:
    names = ("base", "op1")
    costs = [(2.0, 0.0), (9.0, 0.0)]
    slots = tuple(Slot(f"slot{i}", (), (0, 1), {}, {"macs": c}, choices=names) for i, c in enumerate(costs))
    space = SearchSpace(names, slots).within(Budget({"macs": 2.0}))
    # The first slot gives way first, but it is the second one that has to.
    assert repaired(space, (0, 0), np.array([[0.5, 0.5], [1.0, 0.0]])) == (0, 1)


def test_bounds_that_contradict_each_other_are_left_to_the_integer_program() -> None:
    names = ("base", "op1", "op2")
    costs = {"macs": (3.0, 1.0, 0.0), "params": (0.0, 1.0, 3.0)}
    slots = tuple(Slot(f"slot{i}", (), (0, 1, 2), {}, costs, choices=names) for i in range(4))
    space = SearchSpace(names, slots).within(Budget({"macs": 4.0, "params": 4.0}))
    for vector in ((0, 0, 0, 0), (2, 2, 2, 2), (0, 2, 0, 2)):
        assert space.feasible(repaired(space, vector, np.zeros((4, 3))))


def test_a_budget_that_nothing_meets_is_an_error() -> None:
    names = ("base", "op1")
    slot = Slot("slot0", (), (0, 1), {}, {"macs": (2.0, 0.0), "params": (0.0, 2.0)}, choices=names)
    space = SearchSpace(names, (slot,), budget=Budget({"macs": 1.0, "params": 1.0}))
    with pytest.raises(InfeasibleBudgetError, match="no architecture meets"):
        repaired(space, (0,), np.zeros((1, 2)))
