"""Tables of spaces whose slots have choices of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from sample_networks import Chain

import narfx
from narfx.cli import tables
from narfx.space import DeclaredSite, Slot

CANDIDATES = ("skip_connect", "none", "dwsep3x3")


def with_edge() -> narfx.Traced:
    """Of two convolutions the second is an edge in its place: two of three candidates are legal."""
    traced = narfx.trace(Chain(2), (3, 8, 8), operators=("base", "dwsep3x3"))
    site = DeclaredSite("body.3", 0, "edge", CANDIDATES, ((8, 8, 8), (4, 8, 8)), (8, 8, 8), own_params=584)
    costs = {"params": (584.0, 0.0, 140.0), "macs": (36864.0, 0.0, 8704.0)}
    slot = Slot("body.3", (site,), (0, 2), {1: "it is not wanted"}, costs, choices=CANDIDATES)
    return replace(traced, space=replace(traced.space, slots=(traced.space.slots[0], slot)))


def shown(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    tables.trace(report, Console(width=200))
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_trace_names_the_entries_of_a_slot_that_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    report = with_edge().to_json()
    conv, edge = report["sites"]
    assert "choices" not in conv and conv["candidates"] == ["base", "dwsep3x3"]
    assert edge == {
        "name": "body.3",
        "slot": 1,
        "kind": "edge",
        "input_shapes": [[8, 8, 8], [4, 8, 8]],
        "output_shape": [8, 8, 8],
        "params": 584,
        "macs": None,
        "candidates": ["skip_connect", "dwsep3x3"],
        "choices": list(CANDIDATES),
        "where": "",
    }
    lines = shown(report, capsys)
    assert ["body.0", "0", "conv3x3", "8→8", "1x1", "8x8x8", "576", "0.04", "M", "0", "1"] in lines
    assert ["body.3", "1", "edge", "8+4→8", "8x8x8", "584", "0", "skip_connect", "2", "dwsep3x3"] in lines


def test_latencies_of_a_slot_with_its_own_choices_have_their_own_table(capsys: pytest.CaptureFixture[str]) -> None:
    timed = {"threads": 1, "batch": 1, "provider": "CPU", "onnxruntime": "1", "cpu": "x", "measured": 0, "reused": 4}
    slots = [
        {"name": "body.0", "milliseconds": [0.5, 0.25]},
        {"name": "body.3", "choices": list(CANDIDATES), "milliseconds": [0.125, None, 0.75]},
    ]
    report = with_edge().to_json()
    report["latency"] = {**timed, "operators": report["operators"], "slots": slots, "check": None}
    for bound in report["cost"].values():
        bound["latency"] = 1.0
    lines = shown(report, capsys)
    start = lines.index(["latency,", "ms", "base", "dwsep3x3"])
    assert lines[start + 1] == ["body.0", "0.5000", "0.2500"]
    own = lines.index(["latency", "of", "body.3", "ms"])
    assert lines[own + 1 : own + 4] == [["skip_connect", "0.1250"], ["none"], ["dwsep3x3", "0.7500"]]
