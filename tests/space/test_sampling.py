"""Draws: uniform among the vectors of a window, of equal cost, or within a budget."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chisquare
from small_spaces import OPERATORS, slot, spaces, three_slots, vectors

from narfx.space.budget import Budget
from narfx.space.sampling import FeasibleSampler, WindowSampler, sample_equal, sample_window
from narfx.space.space import SearchSpace


@pytest.fixture
def space() -> SearchSpace:
    return three_slots()


@given(spaces(), st.floats(-0.2, 1.2), st.floats(0, 1.2))
def test_all_vectors_of_a_window_as_brute_force_finds_them(space: SearchSpace, start: float, width: float) -> None:
    span = space.most("macs") - space.least("macs")
    low = space.least("macs") + start * span
    high = low + width * span
    expected = [v for v in vectors(space) if low <= space.cost(v)["macs"] <= high]
    sampler = WindowSampler(space, "macs", low, high)
    assert list(sampler.all()) == expected
    assert sampler.count >= len(expected)


@given(spaces(), st.data())
def test_a_window_on_the_cost_of_a_vector_holds_it(space: SearchSpace, data: st.DataObject) -> None:
    vector = data.draw(st.sampled_from(vectors(space)))
    cost = space.cost(vector)["params"]
    assert vector in set(WindowSampler(space, "params", cost, cost).all())
    assert vector in set(WindowSampler(space, "params", float("-inf"), cost).all())
    assert vector in set(WindowSampler(space, "params", cost, float("inf")).all())


@pytest.mark.parametrize(("slots", "third", "fixed"), [(2, 37, 43), (4, 526, 32), (4, 74, 22), (2, 296, 17)])
def test_the_dearest_vector_survives_the_rounding_of_bins(slots: int, third: int, fixed: int) -> None:
    """Costs whose quotients lie next to an integer: the window begins exactly where the most costly vector lies."""
    costs = (third / 7, third / 3, third / 11)
    space = SearchSpace(
        OPERATORS[:3], tuple(slot(f"s{i}", (0, 1, 2), costs) for i in range(slots)), {"macs": fixed / 3}
    )
    dearest = (1,) * slots
    cost = space.cost(dearest)["macs"]
    assert list(WindowSampler(space, "macs", cost, 1.3 * cost).all()) == [dearest]


def uneven() -> SearchSpace:
    """Six slots whose costs differ by orders of magnitude, as the stages of a network do."""
    return SearchSpace(
        OPERATORS[:3],
        tuple(slot(f"s{i}", (0, 1, 2), (7.3 * 2**i, 3.1 * 2**i, 2.9 * 2**i + 1)) for i in range(6)),
        {"macs": 100},
    )


def test_window_draws_are_uniform() -> None:
    space = uneven()
    low, high = 290.0, 320.0
    inside = [v for v in vectors(space) if low <= space.cost(v)["macs"] <= high]
    assert 20 < len(inside) < 200
    sampler, rng = WindowSampler(space, "macs", low, high), np.random.default_rng(0)
    drawn = Counter(sampler.draw(rng) for _ in range(40 * len(inside)))
    assert set(drawn) == set(inside)
    assert chisquare([drawn[vector] for vector in inside]).pvalue > 0.01


def test_an_empty_window_gives_nothing() -> None:
    space, rng = uneven(), np.random.default_rng(0)
    for low, high in ((0.0, 10.0), (1e6, 2e6), (300.0, 299.0), (float("-inf"), 0.0)):
        sampler = WindowSampler(space, "macs", low, high)
        assert sampler.draw(rng) is None
        assert list(sampler.all()) == []
        assert sample_window(space, 5, low, high, rng) == []


def test_a_sample_of_a_window_is_distinct_and_leaves_out_what_is_excluded() -> None:
    space, rng = uneven(), np.random.default_rng(1)
    inside = [v for v in vectors(space) if 290 <= space.cost(v)["macs"] <= 320]
    excluded = frozenset(inside[:7])
    for n in (1, 8, len(inside) - 7, len(inside) + 50):
        sample = sample_window(space, n, 290, 320, rng, exclude=excluded)
        assert len(sample) == len(set(sample)) == min(n, len(inside) - 7)
        assert set(sample) <= set(inside) - excluded


def test_a_sample_of_a_large_window_is_distinct() -> None:
    space = SearchSpace.uniform(slots=16, operators=4)
    sample = sample_window(space, 50, 7.8, 8.0, np.random.default_rng(0))
    assert len(sample) == len(set(sample)) == 50
    assert all(7.8 <= space.cost(vector)["macs"] <= 8.0 for vector in sample)


def test_a_sample_follows_from_its_generator() -> None:
    space = SearchSpace.uniform(slots=16, operators=4)
    first, again, other = (sample_window(space, 8, 7.0, 8.0, np.random.default_rng(s)) for s in (5, 5, 6))
    assert first == again != other


@given(spaces(), st.data())
def test_vectors_of_equal_cost_meet_every_bound(space: SearchSpace, data: st.DataObject) -> None:
    everything = vectors(space)
    kept = data.draw(st.sampled_from(everything))
    bounded = data.draw(st.sets(st.sampled_from(["macs", "params"])))
    room = {metric: space.cost(kept)[metric] * data.draw(st.floats(1, 2)) for metric in sorted(bounded)}
    under = space.within(Budget(room))
    n = data.draw(st.integers(1, 8))
    cost = space.cost(kept)
    equal = [
        vector for vector in everything
        if vector != kept and all(
            0.98 * cost[metric] <= space.cost(vector)[metric] <= cost[metric] for metric in {"macs", *bounded}
        )
    ]  # fmt: skip
    drawn = sample_equal(under, kept, n, np.random.default_rng(0))
    assert len(drawn) == len(set(drawn)) == min(n, len(equal)) and set(drawn) <= set(equal)
    assert all(under.feasible(vector) for vector in drawn)


def test_vectors_of_equal_cost_in_a_large_space() -> None:
    rng = np.random.default_rng(3)
    made = tuple(slot(f"s{i}", (0, 1, 2, 3), rng.random(4).tolist(), rng.random(4).tolist()) for i in range(16))
    space = SearchSpace(OPERATORS, made, {"macs": 1.0, "params": 1.0})
    space = space.within(Budget({metric: 0.55 * space.most(metric) for metric in ("macs", "params")}))
    kept = FeasibleSampler(space).draw(rng)
    drawn = sample_equal(space, kept, 8, rng)
    assert len(drawn) == len({*drawn, kept}) - 1 == 8
    for metric, most in space.cost(kept).items():
        assert all(0.98 * most <= space.cost(vector)[metric] <= most for vector in drawn)
    free = sample_equal(space.within(Budget()), kept, 8, rng)  # equal in MACs alone
    most = space.cost(kept)["params"]
    assert not all(0.98 * most <= space.cost(vector)["params"] <= most for vector in free)


@given(spaces(), st.floats(0, 0.3), st.floats(0, 0.3), st.integers(0, 9))
def test_every_draw_meets_tight_budgets(space: SearchSpace, macs: float, params: float, seed: int) -> None:
    bounds = {
        metric: space.least(metric) + share * (space.most(metric) - space.least(metric))
        for metric, share in (("macs", macs), ("params", params))
    }
    assume(any(Budget(bounds).met_by(space.cost(vector)) for vector in vectors(space)))
    bounded = space.within(Budget(bounds))
    sampler, rng = FeasibleSampler(bounded), np.random.default_rng(seed)
    assert all(bounded.feasible(bounded.validate(sampler.draw(rng))) for _ in range(5))


def test_feasible_draws_are_uniform_under_a_tight_budget() -> None:
    space = uneven().within(Budget({"macs": 290.0}))
    feasible = [v for v in vectors(space) if space.feasible(v)]
    assert 5 < len(feasible) < space.size / 10
    sampler, rng = FeasibleSampler(space), np.random.default_rng(3)
    drawn = Counter(sampler.draw(rng) for _ in range(40 * len(feasible)))
    assert set(drawn) == set(feasible)
    assert chisquare([drawn[vector] for vector in feasible]).pvalue > 0.01


def test_the_only_feasible_vector_of_opposed_bounds_is_found() -> None:
    """Each bound alone leaves thousands of vectors, both together one: slots are cheap in one metric or the other."""
    macs, params = (64.0, 1.0, 30.0), (1.0, 64.0, 30.0)
    space = SearchSpace(OPERATORS[:3], tuple(slot(f"s{i}", (0, 1, 2), macs, params) for i in range(14)))
    bounded = space.within(Budget({"macs": 14 * 30.0, "params": 14 * 30.0}))
    sampler, rng = FeasibleSampler(bounded), np.random.default_rng(0)
    assert sampler.draw(rng) == (2,) * 14
