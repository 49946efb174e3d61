"""Rounds of calls in onnxruntime."""

from __future__ import annotations

from small_tables import site

from narfx.latency.probe import probe
from narfx.latency.timing import open_call, time_calls


def test_rounds_without_the_warm_up() -> None:
    call = open_call(probe(site(), "base").model(), (8, 6, 6))
    taken = time_calls({"a": call, "b": call}, cpu_time=True, rounds=20)
    assert {name: len(each) for name, each in taken.items()} == {"a": 18, "b": 18}
    assert all((each > 0).all() for each in taken.values())
    assert len(time_calls({"a": call}, cpu_time=False, rounds=50, seconds=0.0)["a"]) == 9
