"""The history of rewards: bounded memory, and the mean of repetitions."""

from __future__ import annotations

import itertools

from taught import earned

from narfx.search import Proposal, Result
from narfx.search.history import History
from narfx.space.space import SearchSpace


def test_a_record_in_bounded_memory_keeps_the_better_half() -> None:
    history = History(SearchSpace.uniform(5, 3), capacity=20)
    everything = list(itertools.product(range(3), repeat=5))
    for vector in everything:
        history.add([Proposal(vector)], [Result(earned(vector))])
    assert len(history) <= 20
    assert history.best(5) == sorted(everything, key=earned, reverse=True)[:5]


def test_a_record_of_repetitions_is_bounded_too() -> None:
    history = History(SearchSpace.uniform(2, 2), capacity=5)
    for step in range(40):
        history.add([Proposal((0, 1)), Proposal((1, step % 2))], [Result(1.0), Result(float(step % 2))])
    assert sum(map(len, history.state_dict()["batches"])) <= 20
    assert {entry.vector: entry.evaluations for entry in history.archive()}[0, 1] == 40
    assert history.best(2) == [(0, 1), (1, 1)]


def test_a_record_ranks_by_the_mean_of_repeated_tellings() -> None:
    history = History(SearchSpace.uniform(2, 2))
    history.add([Proposal((0, 1)), Proposal((1, 1))], [Result(1.0), Result(2.0)])
    assert not history.noisy
    history.add([Proposal((1, 1)), Proposal((1, 1))], [Result(0.0), Result(0.0)])
    assert history.noisy
    assert history.best(2) == [(0, 1), (1, 1)]
