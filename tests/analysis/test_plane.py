"""The plane of filter-normalised directions through a network's weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_networks import Chain, settled
from torch import nn

from narfx.analysis.plane import Plane
from narfx.errors import UsageError


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_each_filter_of_a_direction_has_the_norm_of_the_networks_own() -> None:
    network = settled(Chain())
    for direction in Plane(network, 3).directions:
        # Convolutions and the linear layer; no bias, no scale or shift of a norm.
        assert set(direction) == {"stem.weight", "body.0.weight", "body.3.weight", "head.weight"}
        for name, value in direction.items():
            own = network.get_parameter(name).detach()
            assert torch.allclose(value.flatten(1).norm(dim=1), own.flatten(1).norm(dim=1), rtol=1e-5)


def test_directions_depend_on_the_seed_and_the_axis_alone() -> None:
    one, same, other = (Plane(settled(Chain()), seed) for seed in (1, 1, 2))
    for name, value in one.directions[0].items():
        assert torch.equal(value, same.directions[0][name])
        assert not torch.equal(value, other.directions[0][name])
        assert not torch.equal(value, one.directions[1][name])
    # Weights of the same name and shape go the same way in every network.
    elsewhere = Plane(settled(Chain(depth=1), seed=9), 1).directions[0]["body.0.weight"]
    assert torch.allclose(
        torch.cosine_similarity(elsewhere.flatten(1), one.directions[0]["body.0.weight"].flatten(1)), torch.ones(8)
    )


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_the_network_is_moved_and_comes_back_bit_for_bit(first: float, second: float) -> None:
    network = settled(Chain(depth=1))
    before, plane = state(network), Plane(network, 0)
    with plane.at(first, second):
        for name, value in network.state_dict().items():
            move = first * plane.directions[0][name] + second * plane.directions[1][name] if (
                name in plane.directions[0]
            ) else 0  # fmt: skip
            assert torch.allclose(value, before[name] + move, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_it_comes_back_from_an_error_too() -> None:
    network = settled(Chain(depth=1))
    before = state(network)
    with pytest.raises(KeyError), Plane(network, 0).at(1.0, 1.0):
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_without_weights_there_is_no_plane() -> None:
    with pytest.raises(UsageError, match="no weights that can be moved"):
        Plane(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), 0)
