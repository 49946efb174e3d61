"""Where nothing stands at a site: what is left of it in a lowered graph, by the way in which a network reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sample_networks import images
from torch import Tensor, nn

import narfx
from narfx.graph.cost import measure
from narfx.passes import verify_lowered

SHAPE = (3, 8, 8)


class Edge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def narfx_candidates(self) -> dict[str, None]:
        return {"conv": None, "none": None}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Net(nn.Module):
    """Two edges on a stem, the first behind a convolution of its own, and what ``join`` makes of them."""

    def __init__(self, join: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.before = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.a, self.b, self.join = Edge(), Edge(), join

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.join(self.a(self.before(x)), self.b(x), x)


def _add(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return a + b


def _method(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return b.add(a)


def _sum(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return sum([a, b], start=x)


def _stack(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return torch.stack([a, b, x]).sum(0)


def _relu(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(torch.relu(a), 3, 1, 1) * 1 + b


def _activated(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return torch.relu(a) + b


def _scaled(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return torch.add(a, b, alpha=2)


def _cat(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return torch.cat([a, b], 1)


def _broadcast(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return a + b.mean((2, 3), keepdim=True)


def _changed(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return (a + x).relu_() + b + x


GONE = [_add, _method, _sum, _stack, _activated, _changed]
MADE = [_relu, _scaled, _cat, _broadcast]


@pytest.mark.parametrize("join", [*GONE, *MADE])
@pytest.mark.parametrize("vector", [(0, 1), (1, 0), (1, 1)])
def test_a_graph_without_the_zeros_computes_the_same(
    join: Callable[[Tensor, Tensor, Tensor], Tensor], vector: tuple[int, int]
) -> None:
    traced = narfx.trace(Net(join).eval(), SHAPE)
    net = narfx.Supernet(traced).eval()
    x = images(2, *SHAPE)
    net.set_vector(vector)
    lowered = narfx.lower(net, vector).eval()
    torch.testing.assert_close(lowered(x), net(x))
    assert verify_lowered(lowered) == []
    assert lowered(images(3, 3, 12, 10)).shape[0] == 3  # any batch and any size


@pytest.mark.parametrize("join", GONE)
def test_a_sum_loses_what_is_zeros_and_what_only_that_read(join: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    traced = narfx.trace(Net(join).eval(), SHAPE)
    lowered = narfx.lower(narfx.Supernet(traced), [1, 0])
    assert "zeros_like" not in lowered.code
    assert {key.partition(".")[0] for key in lowered.state_dict()} == {"stem", "b"}
    # The convolution before the edge is gone too: the network costs less than the slots say.
    predicted, counted = traced.space.cost([1, 0]), measure(lowered, SHAPE)
    assert predicted["macs"] - counted["macs"] == 4 * 4 * 64


@pytest.mark.parametrize("join", MADE)
def test_zeros_that_something_else_reads_are_made_without_arithmetic(
    join: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    traced = narfx.trace(Net(join).eval(), SHAPE)
    lowered = narfx.lower(narfx.Supernet(traced), [1, 0])
    assert lowered.code.count("torch.zeros_like(") == 1
    assert not any(key.startswith("a.") for key in lowered.state_dict())


def test_a_second_lowering_changes_nothing() -> None:
    traced = narfx.trace(Net(_cat).eval(), SHAPE)
    net = narfx.Supernet(traced)
    codes = {narfx.lower(net, [1, 0]).code for _ in range(2)}
    assert len(codes) == 1
