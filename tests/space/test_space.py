"""The search space, budgets on it, and uniform draws from it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.budget import Budget
from narfx.space.records import Site, Slot, Vector
from narfx.space.sampling import FeasibleSampler, WindowSampler, sample_equal, sample_window
from narfx.space.space import SearchSpace

OPERATORS = ("base", "dwsep3x3", "maxpool3x3", "avgpool3x3")


def site(name: str = "layer1.0.conv1", **changes: object) -> Site:
    values: dict[str, object] = {
        "target": name, "occurrence": 0, "kind": "conv3x3", "in_channels": 8, "out_channels": 16, "kernel": (3, 3),
        "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "bias": False, "padding_mode": "zeros",
        "input_shape": (8, 10, 10), "output_shape": (16, 10, 10),
    }  # fmt: skip
    return Site(**{**values, **changes})  # type: ignore[arg-type]


def slot(name: str, legal: Sequence[int], macs: Sequence[float], params: Sequence[float] | None = None) -> Slot:
    costs = {"macs": tuple(macs), "params": tuple(params or macs)}
    refused = {k: "it has more parameters" for k in range(len(macs)) if k not in legal}
    return Slot(name, (site(name),), tuple(legal), refused, costs, choices=OPERATORS[: len(macs)])


@pytest.fixture
def space() -> SearchSpace:
    """Three slots; the second refuses operator 1; parameters and MACs rank the operators differently."""
    return SearchSpace(
        OPERATORS,
        (
            slot("a", (0, 1, 2, 3), (100, 40, 30, 31), (10, 30, 20, 25)),
            slot("b", (0, 2, 3), (200, 80, 60, 61), (90, 95, 50, 60)),
            slot("c", (0, 1, 2, 3), (50, 20, 15, 17), (40, 10, 12, 14)),
        ),
        {"macs": 1000, "params": 500},
    )


@st.composite
def spaces(draw: st.DrawFn, most_slots: int = 4, whole: bool = False) -> SearchSpace:
    """Small spaces of unequal costs, some operators illegal, costs whole numbers or not."""
    operators = draw(st.integers(2, 4))
    number = st.integers(0, 10**6) if whole else st.integers(0, 10**6) | st.floats(0, 1e6, allow_subnormal=False)

    def one(index: int) -> Slot:
        legal = draw(st.sets(st.integers(1, operators - 1))) | {0}
        costs = st.lists(number, min_size=operators, max_size=operators)
        return slot(f"s{index}", sorted(legal), draw(costs), draw(costs))

    slots = tuple(one(index) for index in range(draw(st.integers(1, most_slots))))
    return SearchSpace(OPERATORS[:operators], slots, {"macs": draw(number), "params": draw(number)})


def vectors(space: SearchSpace) -> list[Vector]:
    return list(itertools.product(*(slot.legal for slot in space.slots)))


# --- vectors


def test_a_legal_vector_is_returned_as_a_tuple(space: SearchSpace) -> None:
    assert space.validate([3, 2, 0]) == (3, 2, 0)
    assert space.validate(np.array([3, 2, 0])) == (3, 2, 0)  # type: ignore[arg-type]
    assert all(type(entry) is int for entry in space.validate(np.array([3, 2, 0])))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vector", "kind", "told"),
    [
        ([0, 0], "vector_length", ["2 entries", "3 slots"]),
        ([0, 0, 0, 0], "vector_length", ["4 entries", "3 slots"]),
        ([0, 1.0, 0], "vector_entry", ["1.0", "slot 1 (b)"]),
        ([0, 0, "1"], "unknown_operator", ["'1'", "slot 2 (c)"]),
        ([True, 0, 0], "vector_entry", ["True", "slot 0 (a)"]),
        ([None, 0, 0], "vector_entry", ["None", "slot 0 (a)"]),
        ([0, 0, 4], "vector_index", ["4", "slot 2 (c)", "3 avgpool3x3"]),
        ([-1, 0, 0], "vector_index", ["-1", "slot 0 (a)"]),
        ([0, 1, 0], "vector_illegal", ["1 (dwsep3x3)", "slot 1 (b)", "it has more parameters"]),
    ],
)
def test_an_illegal_vector_is_refused_by_slot_and_reason(
    space: SearchSpace, vector: list[object], kind: str, told: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        space.validate(vector)
    assert caught.value.kind == kind
    assert all(text in str(caught.value) for text in told)
    assert kind == "vector_length" or str(caught.value.where) in str(caught.value)


def test_what_a_stage_left_out_is_refused_as_such(space: SearchSpace) -> None:
    with pytest.raises(UsageError, match="this stage of the search left it out"):
        space.restrict({0: ["base"]}).validate([1, 0, 0])


@given(spaces())
def test_every_legal_vector_validates_and_size_counts_them(space: SearchSpace) -> None:
    everything = vectors(space)
    assert space.size == len(everything)
    assert [space.validate(vector) for vector in everything] == everything


# --- costs


@given(spaces(whole=True), st.data())
def test_cost_is_additive_over_slots(space: SearchSpace, data: st.DataObject) -> None:
    vector = data.draw(st.sampled_from(vectors(space)))
    whole = space.cost(vector)
    for metric in ("macs", "params"):
        change = sum(
            space.cost(tuple(vector[i] if j == i else 0 for j in range(len(space))))[metric]
            - space.cost(space.base)[metric]
            for i in range(len(space))
        )
        assert whole[metric] == space.cost(space.base)[metric] + change


@given(spaces())
def test_least_and_most_are_the_extremes_over_legal_vectors(space: SearchSpace) -> None:
    for metric in space.metrics:
        costs = [space.cost(vector)[metric] for vector in vectors(space)]
        assert (space.least(metric), space.most(metric)) == (min(costs), max(costs))


def test_cost_of_the_whole_network_counts_what_no_slot_changes(space: SearchSpace) -> None:
    assert space.cost(space.base) == {"macs": 1350, "params": 640}
    assert space.cost((1, 2, 3)) == {"macs": 1000 + 40 + 60 + 17, "params": 500 + 30 + 50 + 14}


def test_a_uniform_space_needs_no_model() -> None:
    space = SearchSpace.uniform(slots=8, operators=3)
    assert (len(space), space.size, space.base) == (8, 3**8, (0,) * 8)
    assert space.cost((0, 1, 2, 0, 1, 2, 0, 1)) == {"macs": 4.5}


# --- restrict


def test_restrict_keeps_legal_operators_by_name_or_index(space: SearchSpace) -> None:
    narrow = space.restrict({0: ["base", 3], 1: [0, 1, "maxpool3x3"]})
    assert [slot.legal for slot in narrow.slots] == [(0, 3), (0, 2), (0, 1, 2, 3)]
    assert [slot.legal for slot in space.slots] == [(0, 1, 2, 3), (0, 2, 3), (0, 1, 2, 3)]
    assert narrow.operators == space.operators


@pytest.mark.parametrize(
    ("choices", "kind"),
    [({3: ["base"]}, "unknown_slot"), ({-1: ["base"]}, "unknown_slot"), ({0: ["conv9x9"]}, "unknown_operator"),
     ({0: [7]}, "unknown_operator"), ({1: ["dwsep3x3"]}, "empty_slot"), ({1: []}, "empty_slot")],
)  # fmt: skip
def test_restrict_refuses_what_does_not_exist(
    space: SearchSpace, choices: dict[int, list[str | int]], kind: str
) -> None:
    with pytest.raises(UsageError) as caught:
        space.restrict(choices)
    assert caught.value.kind == kind


def test_restrict_refuses_a_stage_that_cannot_meet_the_budget(space: SearchSpace) -> None:
    bounded = space.within(Budget({"macs": 1200}))
    assert bounded.restrict({0: ["base", "dwsep3x3"]}).budget == bounded.budget
    with pytest.raises(InfeasibleBudgetError, match="macs<=1,200"):
        bounded.restrict({1: ["base"]})


# --- budgets


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("none", {}),
        (" None ", {}),
        ("macs<=0.8x", {"macs": 0.8 * 2e9}),
        ("macs <= .5X", {"macs": 1e9}),
        ("macs<=1.2G", {"macs": 1.2e9}),
        ("params<=9m,macs<=500M", {"params": 9e6, "macs": 5e8}),
        ("params<=12k", {"params": 12e3}),
        ("macs<=1456000000", {"macs": 1456000000}),
        ("macs<=1.5e9", {"macs": 1.5e9}),
        ("MACS<=1x , Params<=1x", {"macs": 2e9, "params": 1e7}),
    ],
)
def test_budget_forms(text: str, bounds: dict[str, float]) -> None:
    assert dict(Budget.parse(text, {"macs": 2e9, "params": 1e7}).bounds) == pytest.approx(bounds)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "budget_syntax"), ("0.8", "budget_syntax"), ("macs", "budget_syntax"), ("macs<0.8x", "budget_syntax"),
     ("macs<=", "budget_syntax"), ("macs<=-1", "budget_syntax"), ("macs<=0.8y", "budget_syntax"),
     ("macs>=0.8x", "budget_syntax"), ("macs<=0.8x,", "budget_syntax"), ("macs<=nan", "budget_syntax"),
     ("macs<=inf", "budget_syntax"), ("macs<=0.8x,none", "budget_syntax"), ("macs<=1x,macs<=2x", "budget_syntax"),
     ("latency<=0.7x", "unknown_metric"), ("flops<=1G", "unknown_metric")],
)  # fmt: skip
def test_a_budget_that_cannot_be_read_is_refused(text: str, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        Budget.parse(text, {"macs": 2e9, "params": 1e7})
    assert caught.value.kind == kind
    assert caught.value.where == "--budget"


def test_a_budget_prints_itself() -> None:
    assert str(Budget({"macs": 1.2e9, "params": 9e6})) == "macs<=1200000000,params<=9000000"
    assert str(Budget()) == "none"


@given(spaces(), st.floats(0, 1), st.floats(0, 1))
def test_within_accepts_exactly_what_some_vector_meets(space: SearchSpace, macs: float, params: float) -> None:
    bounds = {
        metric: space.least(metric) + share * (space.most(metric) - space.least(metric))
        for metric, share in (("macs", macs), ("params", params))
    }
    budget = Budget(bounds)
    if any(budget.met_by(space.cost(vector)) for vector in vectors(space)):
        bounded = space.within(budget)
        assert [v for v in vectors(bounded) if bounded.feasible(v)] == [
            v for v in vectors(space) if budget.met_by(space.cost(v))
        ]
    else:
        with pytest.raises(InfeasibleBudgetError):
            space.within(budget)


def test_an_infeasible_budget_names_the_cheapest(space: SearchSpace) -> None:
    with pytest.raises(InfeasibleBudgetError) as caught:
        space.within(Budget({"macs": 1000}))
    assert caught.value.exit_code == 4
    assert "macs<=1,000" in str(caught.value)
    assert "1,105" in str(caught.value)


def test_bounds_that_only_exclude_each_other_are_infeasible() -> None:
    space = SearchSpace(OPERATORS[:2], (slot("a", (0, 1), (1, 9), (9, 1)),))
    assert space.within(Budget({"macs": 1})).feasible((0,))
    with pytest.raises(InfeasibleBudgetError, match="no architecture meets all"):
        space.within(Budget({"macs": 5, "params": 5}))


def test_a_budget_on_an_unknown_metric_is_refused(space: SearchSpace) -> None:
    with pytest.raises(UsageError) as caught:
        space.within(Budget({"latency": 3.0}))
    assert caught.value.kind == "unknown_metric"


@given(spaces(), st.floats(0, 1), st.randoms(use_true_random=False))
def test_allowed_always_leads_to_a_feasible_vector(space: SearchSpace, share: float, random: object) -> None:
    bound = space.least("macs") + share * (space.most("macs") - space.least("macs"))
    bounded = space.within(Budget({"macs": bound}))
    prefix: Vector = ()
    while len(prefix) < len(bounded):
        allowed = bounded.allowed(prefix)
        completions = [v for v in vectors(bounded) if v[: len(prefix)] == prefix and bounded.feasible(v)]
        assert set(allowed) == {v[len(prefix)] for v in completions}
        prefix = (*prefix, random.choice(allowed))  # type: ignore[attr-defined]
    assert bounded.feasible(prefix)


# --- draws from a window of costs


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


# --- draws under a budget


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


# --- fingerprints


def test_the_fingerprint_is_that_of_the_sites() -> None:
    space = SearchSpace(OPERATORS, (slot("a", (0, 1), (4, 3, 2, 1)), slot("b", (0, 2), (4, 3, 2, 1))))
    assert space.fingerprint() == "87bdef349060abf0"
    assert replace(space, fixed={"macs": 7}, budget=Budget({"macs": 9})).fingerprint() == space.fingerprint()
    moved = replace(space, slots=(replace(space.slots[0], sites=(site("a", where="other.py:7"),)), space.slots[1]))
    assert moved.fingerprint() == space.fingerprint()


@pytest.mark.parametrize(
    "change",
    [{"target": "z"}, {"occurrence": 1}, {"in_channels": 4}, {"kernel": (5, 5)}, {"stride": (2, 2)},
     {"padding": (0, 0)}, {"dilation": (2, 2)}, {"groups": 8}, {"bias": True}, {"padding_mode": "reflect"},
     {"output_shape": (16, 5, 5)}],
)  # fmt: skip
def test_the_fingerprint_follows_the_geometry(change: dict[str, object]) -> None:
    plain = SearchSpace(OPERATORS, (slot("a", (0, 1), (4, 3, 2, 1)),))
    other = replace(plain, slots=(replace(plain.slots[0], sites=(site("a", **change),)),))
    assert plain.fingerprint() != other.fingerprint()
    assert plain.lines() != other.lines()


def test_the_fingerprint_follows_slots_and_legal_operators() -> None:
    a, b = slot("a", (0, 1), (4, 3, 2, 1)), slot("b", (0, 1), (4, 3, 2, 1))
    apart = SearchSpace(OPERATORS, (a, b))
    together = SearchSpace(OPERATORS, (replace(a, sites=(*a.sites, *b.sites)),))
    narrower = SearchSpace(OPERATORS, (replace(a, legal=(0,)), b))
    assert len({s.fingerprint() for s in (apart, together, narrower)}) == 3


def test_a_site_names_later_calls_of_its_module() -> None:
    assert (site("conv").name, site("conv", occurrence=2).name) == ("conv", "conv@2")
