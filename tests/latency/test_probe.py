"""The small networks in which an operator is timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small_tables import site
from torch import Tensor, nn

from narfx.latency.probe import probe
from narfx.latency.timing import open_call
from narfx.operators import Operator, operator_names, refusal, register_operator, unregister_operator
from narfx.space.records import Site


@pytest.mark.parametrize("changes", [
    {}, {"groups": 4}, {"padding_mode": "reflect"}, {"padding_mode": "replicate"}, {"padding_mode": "circular"},
    {"stride": (1, 1), "dilation": (2, 2), "padding": (2, 2), "output_shape": (16, 6, 6)},
])  # fmt: skip
def test_a_probe_computes_its_operator_in_its_context(changes: dict[str, Any]) -> None:
    from narfx.latency.probe import _built

    here = site(**changes, bias=True)
    for name in operator_names():
        if refusal(here, name):
            continue
        made = probe(here, name)
        call = open_call(made.model(), made.input_shape, batch=3)
        found = call.session.run(None, call.feed)[0]
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            groups = here.groups
            context = nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.ReLU(),
                nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv2d(8, 8, 1, groups=groups), nn.ReLU(),
            )  # fmt: skip
            expected = (
                _built(here, name)(context(torch.from_numpy(call.feed["input"]))).relu().mean((2, 3), keepdim=True)
            )
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


class _Scaled(nn.Module):
    """A module that only torch's exporter can write."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(site.in_channels, site.out_channels, 1, stride=site.stride, bias=site.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.pointwise(x)) * 2


@pytest.fixture
def scaled() -> Iterator[str]:
    register_operator(Operator("scaled1x1", _Scaled))
    yield "scaled1x1"
    unregister_operator("scaled1x1")


def test_an_operator_of_the_users_own_goes_through_the_exporter(scaled: str) -> None:
    made = probe(site(), scaled)
    call = open_call(made.model(), made.input_shape, batch=2)
    assert call.session.run(None, call.feed)[0].shape == (2, 16, 1, 1)


def test_sites_of_one_geometry_share_a_latency_with_or_without_a_bias() -> None:
    first = probe(site(), "base")
    assert probe(site(target="other", occurrence=2, bias=True), "base").key == first.key
    others = [site(stride=(1, 1)), site(groups=2), site(input_shape=(8, 5, 5)), site(padding_mode="reflect")]
    assert len({first.key, probe(site(), "dwsep3x3").key, *(probe(each, "base").key for each in others)}) == 6


def test_the_random_state_of_the_caller_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    probe(site(), "dwsep3x3").model()
    assert torch.equal(before, torch.random.get_rng_state())
