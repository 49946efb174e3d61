"""The Pareto front over any metrics."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narfx.space import metrics
from narfx.space.front import front, front_candidates, spread
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


ROWS = st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=14)


def rows_of(rows: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    return [record(n, accuracy=a, macs=b, params=c) for n, (a, b, c) in enumerate(rows)]


@given(ROWS, st.integers(1, 16))
def test_candidates_are_the_front_then_the_next_front(rows: list[tuple[int, int, int]], n: int) -> None:
    records = rows_of(rows)
    found = front_candidates(records, ("macs",), n)
    numbers = [record["vector"][0] for record in found]
    assert len(set(numbers)) == len(numbers) == min(n, len(records))
    whole = front(records, ("accuracy", "macs"))
    first = {record["vector"][0] for record in whole}
    # Nothing of a later front is taken as long as something of the first is left out.
    assert set(numbers) <= first if len(first) >= n else first <= set(numbers)


@given(ROWS, st.integers(2, 8))
def test_what_is_spread_holds_the_ends_and_as_many_as_asked(rows: list[tuple[int, int, int]], n: int) -> None:
    records = rows_of(rows)
    found = spread(records, n, ("macs",))
    assert len(found) == min(n, len(records)) and [r for r in records if r in found] == found
    if found:
        ends = [[r["macs"] for r in some] for some in (records, found)]
        assert min(ends[0]) == min(ends[1]) and max(ends[0]) == max(ends[1])


def test_three_of_many_are_the_ends_and_the_middle() -> None:
    records = [record(n, macs=float(n), params=1.0) for n in range(11)]
    assert [r["macs"] for r in spread(records, 3, ("macs", "params"))] == [0.0, 5.0, 10.0]
    assert [r["macs"] for r in spread(records, 1, ("macs", "params"))] == [5.0]
    far = spread(records, 1, ("macs",), beside=[records[0], records[4]])
    assert [r["macs"] for r in far] == [10.0]
