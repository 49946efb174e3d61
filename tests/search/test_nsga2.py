"""NSGA-II: its sorting, what it breeds, and that it finds fronts."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from fronts import earned, found_volume, spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from narfx.errors import UsageError
from narfx.search import Proposal, Result, make_strategy
from narfx.space.dominance import crowding, nondominated, ranks
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

POINTS = arrays(
    float, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=st.integers(-2, 2).map(float)
)  # small integers, so that points are often equal


@given(POINTS)
def test_the_front_is_what_no_point_beats(points: np.ndarray[Any, Any]) -> None:
    beaten = [any((b >= a).all() and (b > a).any() for b in points) for a in points]
    assert nondominated(points).tolist() == [not one for one in beaten]


@given(POINTS)
def test_a_rank_is_one_more_than_the_highest_rank_of_what_beats_a_point(points: np.ndarray[Any, Any]) -> None:
    found = ranks(points)
    for a, rank in zip(points, found, strict=True):
        above = [other for b, other in zip(points, found, strict=True) if (b >= a).all() and (b > a).any()]
        assert rank == max(above, default=-1) + 1


def test_the_crowding_distance_is_the_sum_of_the_neighbours_gaps() -> None:
    front = np.array([[0.0, 4.0], [1.0, 3.0], [2.0, 1.0], [4.0, 0.0]])
    assert crowding(front).tolist() == [np.inf, 2 / 4 + 3 / 4, 3 / 4 + 3 / 4, np.inf]
    assert crowding(np.array([[1.0, 5.0], [1.0, 5.0]])).tolist() == [0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(spaces(), st.integers(0, 5))
def test_only_legal_vectors_within_the_budget_are_bred(space: SearchSpace, seed: int) -> None:
    strategy = make_strategy("nsga2", space, seed=seed, population=6)
    for _ in range(6):
        proposals = strategy.ask(4)
        for proposal in proposals:
            assert space.validate(proposal.vector) == proposal.vector
            assert space.feasible(proposal.vector)
        metrics = strategy.tell(proposals, [Result(earned(proposal.vector)) for proposal in proposals])
        json.dumps(metrics, allow_nan=False)


def test_a_child_has_the_entries_of_its_parents_but_for_mutations() -> None:
    space = SearchSpace.uniform(30, 6)
    strategy = make_strategy("nsga2", space, seed=1, population=2)
    parents = [(0,) * 30, (5,) * 30]
    strategy.tell([*map(Proposal, parents)], [Result(1.0), Result(0.0)])
    children = [proposal.vector for proposal in strategy.ask(40)]
    strange = [sum(entry not in (0, 5) for entry in child) for child in children]
    assert 0.3 < np.mean(strange) < 2.0  # one slot mutates on average, in four of five cases to a strange entry
    assert any(0 in child and 5 in child for child in children)


def test_the_population_is_the_front_and_its_ends_stay() -> None:
    space = SearchSpace.uniform(4, 3)
    every = list(itertools.product(range(3), repeat=4))
    strategy = make_strategy("nsga2", space, seed=1, population=8)
    worth = {vector: earned(vector) for vector in every}
    metrics = strategy.tell([*map(Proposal, every)], [Result(worth[vector]) for vector in every])
    kept: list[Vector] = [tuple(vector) for vector, _ in strategy.state_dict()["population"]]
    assert len(kept) == 8
    assert max(every, key=lambda vector: worth[vector]) in kept
    points = np.array([[worth[vector], -space.cost(vector)["macs"]] for vector in every])
    front = {vector for vector, one in zip(every, nondominated(points), strict=True) if one}
    assert len(front & set(kept)) == min(len(front), 8) == metrics["front"]


def test_told_costs_decide_who_survives() -> None:
    space = SearchSpace.uniform(3, 2)
    strategy = make_strategy("nsga2", space, population=2)
    told = {(0, 0, 0): 1.0, (1, 1, 1): 9.0, (0, 1, 0): 5.0, (1, 0, 1): 7.0}
    strategy.tell([*map(Proposal, told)], [Result(0.5, {"macs": cost}) for cost in told.values()])
    population = [tuple(vector) for vector, _ in strategy.state_dict()["population"]]
    assert population[0] == (0, 0, 0)
    assert (1, 1, 1) not in population


def test_it_finds_a_better_front_than_random_search() -> None:
    pairs = [(found_volume("nsga2", seed, 150), found_volume("random", seed, 150)) for seed in (1, 2, 3)]
    assert np.mean([nsga2 - random for nsga2, random in pairs]) > 0.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"population": 1}, "population is 1, and must be at least 2"),
        ({"crossover": 1.5}, "crossover is 1.5, and must be at most 1"),
        ({"costs": "macs,time"}, "costs has 'time', but the costs known here are macs"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_strategy("nsga2", SearchSpace.uniform(4, 3), **options)
    assert words in str(caught.value)
