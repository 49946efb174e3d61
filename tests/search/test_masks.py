"""Masks and the prior of a budget, for policies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taught import SPACES

from narfx.search.policies.masks import Masks, budget_prior
from narfx.space.budget import Budget
from narfx.space.records import Slot, Vector
from narfx.space.space import SearchSpace


@st.composite
def spaces_and_prefixes(draw: st.DrawFn) -> tuple[SearchSpace, list[Vector]]:
    slots, operators = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    cost = draw(st.sampled_from([st.integers(0, 10**12), st.floats(0, 1, allow_subnormal=False), st.just(0.1)]))
    row = st.tuples(*[cost] * operators)
    legal = st.sets(st.integers(1, operators - 1)) if operators > 1 else st.just(set())
    names = tuple(f"op{k}" for k in range(operators))

    def one(index: int) -> Slot:
        here, costs = tuple(sorted({0} | draw(legal))), {"macs": draw(row), "params": draw(row)}
        return Slot(f"slot{index}", (), here, {}, costs, choices=names)

    space = SearchSpace(names, tuple(one(index) for index in range(slots)), {"macs": draw(cost)})
    bounds = {m: space.least(m) + draw(st.floats(0, 1)) * (space.most(m) - space.least(m)) for m in ("macs", "params")}
    whole = [tuple(draw(st.sampled_from(slot.legal)) for slot in space.slots) for _ in range(3)]
    return replace(space, budget=Budget(bounds)), whole


@settings(max_examples=80, deadline=None)
@given(spaces_and_prefixes())
def test_masks_say_what_the_space_allows(drawn: tuple[SearchSpace, list[Vector]]) -> None:
    space, whole = drawn
    walk = Masks(space).walk(len(whole))
    for slot in range(len(space)):
        allowed = [tuple(np.flatnonzero(row).tolist()) for row in walk.allowed()]
        assert allowed == [space.allowed(vector[:slot]) for vector in whole]
        walk.take(np.array([vector[slot] for vector in whole]))


def test_no_budget_no_prior() -> None:
    assert not budget_prior(SPACES["free"]()).any()
    assert not budget_prior(SearchSpace.uniform(8, 3).within(Budget({"macs": 7.0}))).any()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.45])
def test_the_prior_of_a_tight_budget_meets_it_in_the_mean(share: float) -> None:
    space = SearchSpace.uniform(12, 4).within(Budget({"macs": 12 * share}))
    p = np.exp(budget_prior(space))
    p /= p.sum(1, keepdims=True)
    assert math.isclose((p * np.array(space.slots[0].costs["macs"])).sum(), 12 * share, rel_tol=1e-3)
