"""Slots at block granularity come from the data flow: real networks, and some whose names say nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from sample_networks import Chain, ResidualNet, Shared
from torch import Tensor, nn

import narfx
from narfx.space.records import Site

NO_ADD = "no residual add was found, so every site is a slot of its own"


def slots(model: nn.Module, input: tuple[int, int, int] = (3, 64, 64)) -> tuple[list[list[str]], narfx.Traced]:
    """The site names of each slot at block granularity."""
    traced = narfx.trace(model, input=input, granularity="block")
    return [[site.name for site in slot.sites] for slot in traced.space.slots], traced


def zoo(name: str) -> nn.Module:
    with torch.device("meta"):  # a trace needs no values, and these are large
        model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model


@pytest.mark.parametrize(
    ("name", "blocks", "sites"),
    [("resnet18", 8, 16), ("resnet34", 16, 32), ("wide_resnet50_2", 16, 16), ("resnext50_32x4d", 16, 16)],
)
def test_residual_networks(name: str, blocks: int, sites: int) -> None:
    found, traced = slots(zoo(name))
    assert (len(found), sum(map(len, found))) == (blocks, sites)
    for names in found:
        assert len({site.rsplit(".", 1)[0] for site in names}) == 1
    assert NO_ADD not in traced.notes


def test_the_grouped_sites_of_resnext_offer_all_operators() -> None:
    _, traced = slots(zoo("resnext50_32x4d"))
    assert {site.groups for site in traced.space.sites if isinstance(site, Site)} == {32}
    assert all(isinstance(site, Site) for site in traced.space.sites)
    assert {slot.legal for slot in traced.space.slots} == {(0, 1, 2, 3)}


@pytest.mark.parametrize(("name", "sites"), [("vgg11_bn", 7), ("densenet121", 58)])
def test_networks_without_an_add_fall_back_to_one_site_a_slot(name: str, sites: int) -> None:
    found, traced = slots(zoo(name))
    assert [len(names) for names in found] == [1] * sites
    assert NO_ADD in traced.notes


def test_names_are_not_read() -> None:
    assert slots(ResidualNet(), (3, 12, 12))[0] == [["q", "r"], ["s", "t"]]
    # Names as in a ResNet, but dealt out against the wiring.
    assert slots(ResidualNet(("layer1_0_a", "layer2_0_a", "layer1_0_b", "layer1_0_c", "layer2_0_b")), (3, 12, 12))[
        0
    ] == [["layer2_0_a", "layer1_0_b"], ["layer1_0_c", "layer2_0_b"]]


def conv() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1)


class Wired(nn.Module):
    """A stem and five convolutions under the names of a list, wired by a function."""

    def __init__(self, wire: Callable[[list[nn.Module], Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.parts, self.wire = nn.Conv2d(3, 8, 3), nn.ModuleList(conv() for _ in range(5)), wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(list(self.parts), self.stem(x))


def nested(m: list[nn.Module], x: Tensor) -> Tensor:
    y = m[0](x)
    y = m[2](m[1](y)) + y
    last: Tensor = m[4](m[3](y)) + x
    return last


def second_exit(m: list[nn.Module], x: Tensor) -> Tensor:
    inside = m[0](x)
    y = m[1](inside) + x
    return torch.cat([m[3](m[2](y)) + y, m[4](inside)], 1)


def shared_over_two_blocks(m: list[nn.Module], x: Tensor) -> Tensor:
    x = m[1](m[0](x)) + x
    last: Tensor = m[2](m[0](x)) + x
    return last


def shared_in_one_block(m: list[nn.Module], x: Tensor) -> Tensor:
    last: Tensor = m[1](m[0](m[0](x))) + x
    return last


def outside(m: list[nn.Module], x: Tensor) -> Tensor:
    x = m[0](x)
    x = m[2](m[1](x)) + x
    last: Tensor = m[3](x)
    return last


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (nested, [["parts.0", "parts.3", "parts.4"], ["parts.1", "parts.2"]]),
        (second_exit, [["parts.0"], ["parts.1"], ["parts.2", "parts.3"], ["parts.4"]]),
        (shared_over_two_blocks, [["parts.0", "parts.0@1"], ["parts.1"], ["parts.2"]]),
        (shared_in_one_block, [["parts.0", "parts.0@1", "parts.1"]]),
        (outside, [["parts.0"], ["parts.1", "parts.2"], ["parts.3"]]),
    ],
)
def test_slots_follow_the_innermost_block(wire: Callable[..., Tensor], expected: list[list[str]]) -> None:
    found, traced = slots(Wired(wire), (3, 12, 12))
    assert found == expected
    assert NO_ADD not in traced.notes


def test_a_slot_offers_what_all_its_sites_allow() -> None:
    class Mixed(ResidualNet):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")

    _, traced = slots(Mixed(), (3, 12, 12))
    first, second = traced.space.slots
    assert (first.legal, second.legal) == ((0, 1), (0, 1, 2, 3))
    assert set(first.refused) == {2, 3}
    assert first.refused[2] == "q: pooling has no padding mode 'reflect'"


@pytest.mark.parametrize("make", [ResidualNet, Shared, Chain])
def test_both_granularities_cost_the_same(make: Callable[[], nn.Module]) -> None:
    block = narfx.trace(make(), input=(3, 12, 12), granularity="block")
    conv = narfx.trace(make(), input=(3, 12, 12))
    for entry in range(4):
        whole = [entry] * len(block.space), [entry] * len(conv.space)
        assert block.space.cost(whole[0]) == conv.space.cost(whole[1])
    assert {site.name for site in block.space.sites} == {site.name for site in conv.space.sites}
