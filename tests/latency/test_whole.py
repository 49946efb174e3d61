"""A budget on latency is kept as it is measured whole, not as it is predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tables import known, small_network

from narfx.latency.metric import with_latency
from narfx.latency.whole import WholeLatency
from narfx.search.whole_latency import keep_in_time
from narfx.space.budget import Budget
from narfx.space.records import Vector
from narfx.space.space import SearchSpace


@pytest.fixture
def space(tmp_path: Path) -> SearchSpace:
    traced = small_network(tmp_path)
    space = with_latency(traced, known(traced)).space
    return space.within(Budget.parse("latency<=0.8x", space.cost(space.base)))


def test_the_most_accurate_that_keeps_the_budget_is_kept(space: SearchSpace) -> None:
    shares: dict[Vector, float] = {(0, 1): 0.83, (1, 0): 0.79, (1, 1): 0.5}
    timed: list[Vector] = []

    def time(vector: Vector) -> WholeLatency:
        timed.append(vector)
        return WholeLatency(2.0 * shares[vector], 2.0, shares[vector], (0.0, 1.0))

    ranked = [space.describe(vector) for vector in shares]
    found = keep_in_time(ranked, space, time)
    assert timed == [(0, 1), (1, 0)]  # no more than needed
    assert found.kept[0] == ranked[1] and found.bound == pytest.approx(0.8)
    assert found.message == (
        "timed whole, the kept vector takes 0.790 of the base's latency (budget 0.800); 1 more accurate did not keep it"
    )
    assert keep_in_time(ranked[1:], space, time).message.endswith("0.790 of the base's latency (budget 0.800)")


def test_if_none_keeps_it_the_fastest_is_kept_and_the_cure_is_said(space: SearchSpace) -> None:
    shares: dict[Vector, float] = {(0, 1): 0.88, (1, 0): 0.84}
    ranked = [space.describe(vector) for vector in shares]
    found = keep_in_time(ranked, space, lambda vector: WholeLatency(shares[vector], 1.0, shares[vector], (0.0, 1.0)))
    assert found.kept[0] == ranked[1]
    assert found.message == (
        "timed whole, the kept vector takes 0.840 of the base's latency, and the budget allows 0.800: none of 2 "
        "finalists keeps it; search with latency<=0.76x"
    )
    assert found.to_json() == {
        "milliseconds": 0.84, "base": 1.0, "share": 0.84, "quartiles": [0.0, 1.0],
        "bound": pytest.approx(0.8), "tried": 2, "message": found.message,
    }  # fmt: skip
