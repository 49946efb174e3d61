"""Budgets: how they are written, and which vectors meet them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import OPERATORS, slot, spaces, three_slots, vectors

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.budget import Budget
from narfx.space.records import Vector
from narfx.space.space import SearchSpace


@pytest.fixture
def space() -> SearchSpace:
    return three_slots()


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


def test_a_relative_bound_on_a_count_is_a_whole_number() -> None:
    budget = Budget.parse("macs<=0.6x,params<=0.57x,latency<=0.6x", {"macs": 50031308, "params": 100, "latency": 0.123})
    assert str(budget) == "macs<=30018784,params<=57,latency<=0.0738ms"


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
