"""The Pareto front over any metrics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narfx.space import metrics
from narfx.space.front import front
from narfx.space.metrics import Metric, register_metric


def record(number: int, **values: float | None) -> dict[str, object]:
    return {"vector": [number], **values}


def test_a_registered_metric_counts_in_its_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))
    register_metric(Metric("throughput", higher_is_better=True, words="images a second"))
    slow = record(0, accuracy=0.9, macs=10, throughput=5.0)
    fast = record(1, accuracy=0.9, macs=10, throughput=9.0)
    small = record(2, accuracy=0.1, macs=1, throughput=1.0)
    assert front([slow, fast, small]) == [small, fast]
    assert front([slow, fast, small], ["accuracy", "throughput"]) == [fast]


def test_any_other_name_is_a_cost_and_what_was_not_evaluated_is_left_out() -> None:
    hungry, frugal = record(0, accuracy=0.5, energy=3.0), record(1, accuracy=0.5, energy=2.0)
    untrained = record(2, accuracy=None, energy=1.0)
    assert front([hungry, frugal, untrained], ["accuracy", "energy"]) == [frugal]
    assert front([hungry, frugal]) == [hungry, frugal]  # equal in all that is registered
    assert front([]) == []


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12))
def test_the_front_is_what_nothing_beats(rows: list[tuple[int, int, int]]) -> None:
    records = [record(n, accuracy=a, macs=b, latency=c) for n, (a, b, c) in enumerate(rows)]
    best = [
        (a, b, c) for a, b, c in rows
        if not any((x, y, z) != (a, b, c) and x >= a and y <= b and z <= c for x, y, z in rows)
    ]  # fmt: skip
    found = front(records)
    assert sorted((r["accuracy"], r["macs"], r["latency"]) for r in found) == sorted(best)
    assert [r["macs"] for r in found] == sorted(r["macs"] for r in found)
