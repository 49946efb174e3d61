"""Slots with choices of their own: all parts agree on what is legal, what an entry is called and what is feasible."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_choices import budgets, conv, edge, everything, mixed_spaces

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.search.policies.masks import Masks
from narfx.search.registry import make_strategy, strategy_names
from narfx.search.strategy import Result
from narfx.space import SearchSpace, Skip, Slot, best_vectors
from narfx.space.budget import Budget
from narfx.space.sampling import FeasibleSampler, WindowSampler

# Other tests register some, and solve measures networks: it takes no rewards.
WITHOUT_REWARDS = {"solve", "darts", "gdas", "stacnas"}
OWN = [name for name in strategy_names() if not name.startswith("test-") and name not in WITHOUT_REWARDS]


@st.composite
def bounded(draw: st.DrawFn) -> SearchSpace:
    space = draw(mixed_spaces())
    return space.within(draw(budgets(space)))


def cell() -> SearchSpace:
    """A convolution, an edge of a cell, two of three inputs, and a skip that the base has."""
    candidates, skip = ("skip_connect", "none", "sep_conv_3x3", "dil_conv_5x5"), Skip(0, 2, True, "a -> b")
    macs = {"macs": (4.0, 0.0, 3.0, 2.0)}
    return SearchSpace(
        ("base", "dwsep3x3"),
        (
            Slot("stem", (conv("stem"),), (0, 1), {}, {"macs": (9.0, 1.0)}, choices=("base", "dwsep3x3")),
            Slot("edge", (edge("edge", candidates),), (0, 1, 3), {2: "it has 9 parameters"}, macs, choices=candidates),
            Slot("inputs", (), (0, 1, 2), {}, {"macs": (0.0, 0.0, 0.0)}, choices=("0+1", "0+2", "1+2")),
            Slot("skip 0->2", (), (0, 1), {}, {"macs": (2.0, 0.0)}, skip, choices=skip.choices),
        ),
        {"macs": 10.0},
    )


# --- what an entry is called


@pytest.mark.parametrize(
    ("vector", "kind", "said"),
    [
        ([2, 0, 0, 0], "vector_index", "entry 2 at slot 0 (stem) is out of range: there are 2 choices, 0 base, 1 dw"),
        ([0, 4, 0, 0], "vector_index", "4 choices, 0 skip_connect, 1 none, 2 sep_conv_3x3, 3 dil_conv_5x5"),
        ([0, 2, 0, 0], "vector_illegal", "entry 2 (sep_conv_3x3) is not legal at slot 1 (edge): it has 9 parameters"),
        ([0, 0, 3, 0], "vector_index", "entry 3 at slot 2 (inputs) is out of range: there are 3 choices, 0 0+1"),
        ([0, 0, 0, 2], "vector_index", "entry 2 at slot 3 (skip 0->2) is out of range: there are 2 choices, 0 open, 1"),
        ([0, 0, 0], "vector_length", "has 3 entries, but the model has 3 slots and 1 possible skip"),
    ],
)
def test_a_message_has_the_slots_own_choices(vector: list[int], kind: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        cell().validate(vector)
    assert caught.value.kind == kind and said in str(caught.value)


def test_a_choice_is_known_by_the_slots_own_names() -> None:
    space = cell()
    assert [space.index(1, name) for name in space.slots[1].choices] == [0, 1, 2, 3]
    given: list[tuple[int, str | int]] = [(0, "dwsep3x3"), (2, "1+2"), (3, "closed"), (1, 3)]
    assert [space.index(slot, choice) for slot, choice in given] == [1, 2, 1, 3]
    assert [space.index(slot, "base") for slot in range(4)] == [0, 0, 0, 0]
    for slot, choice in ((0, "none"), (1, "dwsep3x3"), (2, 3), (2, -1), (3, "0+1")):
        with pytest.raises(UsageError, match=rf"slot {slot} \({space.slots[slot].name}\) has no choice") as caught:
            space.index(slot, choice)
        assert caught.value.kind == "unknown_operator" and space.slots[slot].choices[0] in str(caught.value)
    with pytest.raises(UsageError) as caught:
        space.index(4, "base")
    assert caught.value.kind == "unknown_slot"


def test_restrict_takes_the_slots_own_names() -> None:
    space = cell()
    narrow = space.restrict({1: ["none", 3], 2: ["0+2"], 3: ["closed"]})
    assert [slot.legal for slot in narrow.slots] == [(0, 1), (1, 3), (1,), (1,)]
    assert space.restrict({3: ["base"]}).slots[3].legal == space.restrict({3: ["open"]}).slots[3].legal == (0,)
    assert narrow.start == (0, 1, 1, 1) and narrow.base == (0, 0, 0, 0) and space.start == space.base
    with pytest.raises(UsageError, match=r"entry 0 \(skip_connect\) is not legal at slot 1 \(edge\): this stage"):
        narrow.validate(narrow.base)
    with pytest.raises(UsageError, match=r"nothing legal would remain at slot 1 \(edge\)"):
        space.restrict({1: ["sep_conv_3x3"]})


def test_a_space_without_a_model_may_have_unequal_slots() -> None:
    space = SearchSpace.uniform(3, [2, 4, 1], skips=True)
    assert [slot.choices for slot in space.slots] == [
        ("base", "op1"), ("base", "op1", "op2", "op3"), ("base",), ("closed", "open"),
    ]  # fmt: skip
    assert space.operators == ("base", "op1", "op2", "op3") and space.size == 2 * 4 * 1 * 2
    with pytest.raises(UsageError, match="there are 3 slots, but 2 numbers of operators"):
        SearchSpace.uniform(3, [2, 4])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"legal": ()}, "legal has ascending indices of its 4 choices, at least one, not ()"),
        ({"legal": (0, 4)}, "indices of its 4 choices"),
        ({"legal": (1, 0)}, "ascending"),
        ({"legal": (0, 0)}, "ascending"),
        ({"legal": (-1, 0)}, "ascending"),
        ({"costs": {"macs": (1.0, 2.0)}}, "macs has 2 costs, but there are 4 choices"),
        ({"skip": Skip(0, 2)}, "the choices of this skip are closed, open, not skip_connect, none"),
    ],
)
def test_a_slot_that_contradicts_itself_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(cell().slots[1], **changes)  # type: ignore[arg-type]
    assert caught.value.kind == "bad_slot" and str(caught.value).startswith("slot edge: ")
    assert said in str(caught.value)


# --- all parts agree


@given(mixed_spaces())
@settings(max_examples=40, deadline=None)
def test_validate_takes_exactly_what_is_legal(space: SearchSpace) -> None:
    legal = set(everything(space))
    assert space.size == len(legal) and space.start in legal
    assert (space.start == space.base) == (space.base in legal)
    for vector in itertools.product(*(range(len(slot.choices)) for slot in space.slots)):
        if vector in legal:
            assert space.validate(vector) == vector
        else:
            with pytest.raises(UsageError) as caught:
                space.validate(vector)
            assert caught.value.kind == "vector_illegal"


@given(mixed_spaces())
@settings(max_examples=40, deadline=None)
def test_a_described_vector_is_read_back(space: SearchSpace) -> None:
    vectors = everything(space)
    described = [json.dumps(space.describe(vector)) for vector in vectors]
    assert [space.read(json.loads(text)) for text in described] == vectors
    assert len(set(described)) == len(vectors)


@given(mixed_spaces(), st.data())
@settings(max_examples=40, deadline=None)
def test_names_and_indices_restrict_alike(space: SearchSpace, data: st.DataObject) -> None:
    kept = {i: data.draw(st.sets(st.sampled_from(s.legal), min_size=1)) for i, s in enumerate(space.slots)}
    by_name = space.restrict({i: [space.slots[i].choices[k] for k in entries] for i, entries in kept.items()})
    assert by_name == space.restrict(kept)
    assert everything(by_name) == list(itertools.product(*(sorted(entries) for entries in kept.values())))
    assert by_name.restrict({i: slot.choices for i, slot in enumerate(by_name.slots)}) == by_name


@given(mixed_spaces(), st.integers(0, 220), st.integers(0, 220))
@settings(max_examples=40, deadline=None)
def test_a_restricted_space_knows_which_budgets_it_can_meet(space: SearchSpace, macs: int, params: int) -> None:
    costs = [space.cost(vector) for vector in everything(space)]
    for metric in space.metrics:
        own = [cost[metric] for cost in costs]
        assert (space.least(metric), space.most(metric)) == (min(own), max(own))
    for budget in (Budget({"macs": macs}), Budget({"macs": macs, "params": params})):
        met = [budget.met_by(cost) for cost in costs]
        if any(met):
            assert [space.within(budget).feasible(vector) for vector in everything(space)] == met
        else:
            with pytest.raises(InfeasibleBudgetError):
                space.within(budget)


@given(bounded(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_samplers_draw_what_is_feasible(space: SearchSpace, seed: int) -> None:
    feasible = {vector for vector in everything(space) if space.feasible(vector)}
    sampler, rng = FeasibleSampler(space), np.random.default_rng(seed)
    assert {sampler.draw(rng) for _ in range(10)} <= feasible
    low, high = space.least("macs"), space.budget.bounds.get("macs", space.most("macs"))
    inside = [vector for vector in everything(space) if space.cost(vector)["macs"] <= high]
    assert list(WindowSampler(space, "macs", low, high).all()) == inside


@given(bounded(), st.data())
@settings(max_examples=40, deadline=None)
def test_the_solver_finds_the_best_of_all(space: SearchSpace, data: st.DataObject) -> None:
    score = st.integers(-99, 99)
    scores = {(i, k): float(data.draw(score)) for i, slot in enumerate(space.slots) for k in slot.legal}

    def total(vector: tuple[int, ...]) -> float:
        return sum(scores[i, k] for i, k in enumerate(vector))

    feasible = [vector for vector in everything(space) if space.feasible(vector)]
    found = best_vectors(space, scores, 4)
    assert set(found) <= set(feasible) and len(set(found)) == len(found)
    assert [total(vector) for vector in found] == pytest.approx(sorted(map(total, feasible))[:4])


@given(bounded())
@settings(max_examples=40, deadline=None)
def test_masks_allow_what_the_space_allows(space: SearchSpace) -> None:
    masks = Masks(space)
    assert masks.legal.shape == (len(space), max(len(slot.choices) for slot in space.slots))
    vectors = [vector for vector in everything(space) if space.feasible(vector)]
    along = masks.along(np.array(vectors))
    for row, vector in zip(along, vectors, strict=True):
        allowed = [tuple(np.flatnonzero(here)) for here in row]
        assert allowed == [space.allowed(vector[:step]) for step in range(len(space))]


@pytest.mark.parametrize("name", OWN)
@given(bounded(), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_every_strategy_proposes_what_is_feasible(name: str, space: SearchSpace, seed: int) -> None:
    options = {"population": 4, "tournament": 2} if name == "evolution" else {}
    strategy, rng = make_strategy(name, space, seed=seed, **options), np.random.default_rng(seed)
    feasible = {vector for vector in everything(space) if space.feasible(vector)}
    for _ in range(3):
        proposals = strategy.ask(3)
        assert {proposal.vector for proposal in proposals} <= feasible
        json.dumps(strategy.tell(proposals, [Result(float(rng.random())) for _ in proposals]), allow_nan=False)
    finalists = strategy.finalists(3)
    assert finalists and set(finalists) <= feasible


# --- fingerprints


def test_the_fingerprint_follows_choices_that_no_operator_list_has() -> None:
    space = cell()
    assert space.lines() == [
        "slot 0 stem conv3x3 8->16 kernel 3x3 stride 1x1 padding 1x1 dilation 1x1 groups 1 bias False mode zeros "
        "shape 8x10x10->16x10x10 operators base,dwsep3x3",
        "slot 1 edge edge shape 8x10x10->8x10x10 operators skip_connect,none,dil_conv_5x5 "
        "of skip_connect,none,sep_conv_3x3,dil_conv_5x5",
        "slot 2 inputs operators 0+1,0+2,1+2 of 0+1,0+2,1+2",
        "skip 0->2 base a -> b",
    ]
    stem, edge_slot, inputs, skip = space.slots
    longer = replace(inputs, choices=("0+1", "0+2", "1+2", "0+3"), costs={"macs": (0.0,) * 4})
    moved = replace(edge_slot, sites=(edge("edge", ("a",), own_params=7),))
    first = space.fingerprint()
    assert replace(space, slots=(stem, edge_slot, longer, skip)).fingerprint() != first
    assert replace(space, slots=(stem, edge_slot, skip)).fingerprint() != first
    assert replace(space, slots=(stem, moved, inputs, skip)).fingerprint() == first  # the choices are the slot's


def test_a_declared_site_names_later_calls_of_its_module() -> None:
    site = edge("cell.0", ("skip_connect", "none"))
    later = replace(site, occurrence=2, input_shapes=((8, 4, 4), (16, 4, 4)))
    assert (site.name, later.name) == ("cell.0", "cell.0@2")
    assert later.signature() == "cell.0@2 edge shape 8x4x4+16x4x4->8x10x10"
    assert replace(site, where="other.py:1").signature() == site.signature()
