"""Table 5 of the NAR paper (arXiv 1905.02341): what its vectors save on ResNet-18, by arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import narfx
from narfx.graph.cost import measure
from narfx.inputs.model_ref import load_model

IMAGE = (3, 224, 224)
CONV = (1, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2)
BLOCK = (1, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model("torchvision:resnet18", seed=0)


@pytest.fixture(scope="module", params=["conv", "block"])
def traced(request: pytest.FixtureRequest, model: nn.Module) -> narfx.Traced:
    return narfx.trace(model, input=IMAGE, granularity=request.param)


def vector_of(traced: narfx.Traced) -> tuple[int, ...]:
    return CONV if traced.options.granularity == "conv" else BLOCK


def test_slots(traced: narfx.Traced) -> None:
    assert len(traced.space) == {"conv": 16, "block": 8}[traced.options.granularity]
    assert len(traced.space.sites) == 16
    names = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    if traced.options.granularity == "conv":
        names = [f"{name}.conv{index}" for name in names for index in (1, 2)]
    assert [slot.name for slot in traced.space.slots] == names
    assert all(slot.legal == (0, 1, 2, 3) for slot in traced.space.slots)


def test_cost_of_the_base(traced: narfx.Traced) -> None:
    cost = traced.space.cost(traced.space.base)
    assert cost == traced.cost
    assert cost["params"] == 11_689_512
    assert cost["macs"] == pytest.approx(1.814e9, rel=5e-4)


def test_cost_of_the_papers_vector(traced: narfx.Traced) -> None:
    params, macs, saving = {"conv": (9_266_408, 1.456e9, -0.20), "block": (11_625_128, 1.612e9, -0.11)}[
        traced.options.granularity
    ]
    cost, base = traced.space.cost(vector_of(traced)), traced.cost
    assert cost["params"] == params
    assert cost["macs"] == pytest.approx(macs, rel=5e-4)
    assert cost["macs"] / base["macs"] - 1 == pytest.approx(saving, abs=0.005)


def test_the_lowered_network_has_that_cost(traced: narfx.Traced) -> None:
    vector = vector_of(traced)
    lowered = narfx.lower(narfx.Supernet(traced), vector)
    assert measure(lowered, IMAGE) == traced.space.cost(vector)
    assert sum(p.numel() for p in lowered.parameters()) == traced.space.cost(vector)["params"]


def test_the_trace_is_the_model(model: nn.Module, traced: narfx.Traced) -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        assert torch.equal(traced.graph_module(x), model(x))
    assert list(traced.graph_module.state_dict()) == list(model.state_dict())
