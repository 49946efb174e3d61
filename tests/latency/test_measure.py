"""What is measured of a network, and under which key it is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_tables import small_network

from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.latency.measure import networks, probes
from narfx.space.records import DeclaredSite


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return small_network(tmp_path)


def test_only_convolutions_are_timed(traced: Traced) -> None:
    edge = DeclaredSite("cell.0", 0, "edge", ("none", "conv"), ((8, 8, 8),), (8, 8, 8))
    slots = (replace(traced.space.slots[0], sites=(edge,)), *traced.space.slots[1:])
    with pytest.raises(UsageError, match=r"cell\.0 is of kind edge") as caught:
        probes(replace(traced.space, slots=slots))
    assert caught.value.kind == "latency_site"


def test_the_network_key_follows_the_graph_not_the_weights(traced: Traced) -> None:
    found = probes(traced.space)
    key = networks(traced, found)["base"][0]
    with torch.no_grad():
        next(traced.graph_module.parameters()).add_(1)
    assert networks(traced, found)["base"][0] == key
    assert networks(replace(traced, input=(1, 9, 9)), found)["base"][0] != key
