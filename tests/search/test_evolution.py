"""Evolution: its mutations and its tournaments."""

from __future__ import annotations

from taught import SPACES, earned, vectors

from narfx.search import Proposal, Result, make_strategy
from narfx.space.records import Vector


def test_evolution_changes_one_slot_of_a_member_of_its_population() -> None:
    strategy = make_strategy("evolution", SPACES["free"](), population=6, tournament=3)
    told: list[Vector] = []
    for step in range(20):
        proposals = strategy.ask(3)
        if step >= 2:  # six are told, so the population is full
            assert all(any(sum(map(int.__ne__, v, m)) == 1 for m in told[-6:]) for v in vectors(proposals))
        strategy.tell(proposals, [Result(earned(proposal.vector)) for proposal in proposals])
        told += vectors(proposals)


def test_evolution_breeds_from_the_best_of_a_full_tournament() -> None:
    strategy = make_strategy("evolution", SPACES["free"](), population=6, tournament=6)
    told = vectors(strategy.ask(6))
    strategy.tell([*map(Proposal, told)], [Result(earned(vector)) for vector in told])
    best = max(told, key=earned)
    assert all(sum(map(int.__ne__, vector, best)) == 1 for vector in vectors(strategy.ask(20)))
