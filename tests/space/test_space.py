"""Search spaces: legal vectors, costs, restrictions, fingerprints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import OPERATORS, site, slot, spaces, three_slots, vectors

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.budget import Budget
from narfx.space.space import SearchSpace


@pytest.fixture
def space() -> SearchSpace:
    return three_slots()


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
