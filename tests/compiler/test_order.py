"""Parameters, buffers and keys stand in the model's order, by which optimizer states and averages of weights go."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_networks import images, settled
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import narfx
from narfx.compiler.supernet import Supernet
from narfx.models import MODELS

SHAPE = (3, 8, 8)


class Part(nn.Module):
    """A convolution, a norm and raw parameters, registered in any order and called in one."""

    def __init__(self, order: list[str], functional: bool) -> None:
        super().__init__()
        like: Any = nn.Conv2d(8, 8, 3, padding=1)
        made = {
            "conv": lambda: None if functional else self.add_module("conv", like),
            "weight": lambda: self.register_parameter("weight", like.weight) if functional else None,
            "bias": lambda: self.register_parameter("bias", like.bias) if functional else None,
            "norm": lambda: self.add_module("norm", nn.BatchNorm2d(8)),
            "scale": lambda: self.register_parameter("scale", nn.Parameter(torch.ones(8, 1, 1))),
            "shift": lambda: self.register_buffer("shift", torch.zeros(8, 1, 1)),
            "passing": lambda: self.register_buffer("passing", torch.zeros(8, 1, 1), persistent=False),
            "unused": lambda: self.add_module("unused", nn.Linear(2, 2)),
        }
        for name in order:
            made[name]()
        self.functional = functional

    def forward(self: Any, x: Tensor) -> Tensor:
        x = x * self.scale + self.shift + self.passing
        x = nn.functional.conv2d(x, self.weight, self.bias, padding=1) if self.functional else self.conv(x)
        y: Tensor = self.norm(x).relu()
        return y


class Net(nn.Module):
    """Parts, some of them shared or residual, between a stem and a head; with an auxiliary head, unused in eval."""

    def __init__(self, order: list[str], parts: dict[str, nn.Module], calls: list[str], skip: bool) -> None:
        super().__init__()
        own = {
            "stem": nn.Conv2d(3, 8, 3, padding=1),
            "head": nn.Linear(8, 5),
            "aux": nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
            **parts,
        }
        for name in order:
            self.add_module(name, own[name])
        self.calls, self.skip = calls, skip

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in self.calls:
            y = self.get_submodule(name)(x)
            x = y + x if self.skip else y
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


PIECES = ["conv", "weight", "bias", "norm", "scale", "shift", "passing", "unused"]


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    parts: dict[str, nn.Module] = {
        f"part{index}": Part(draw(st.permutations(PIECES)), draw(st.booleans()))
        for index in range(draw(st.integers(1, 3)))
    }
    calls = draw(st.lists(st.sampled_from([*parts]), min_size=1, max_size=4))  # some are called twice, some never
    if draw(st.booleans()):
        parts["again"] = parts[calls[0]]  # another name of it
    if draw(st.booleans()):
        parts["group"] = nn.ModuleDict({"b": nn.Linear(2, 2), "a": parts[calls[-1]]})
    order = draw(st.permutations(["stem", "head", "aux", *parts]))
    return settled(Net(order, parts, calls, draw(st.booleans())), seed=draw(st.integers(0, 99)))


def order_of(network: nn.Module) -> dict[str, list[str]]:
    return {
        "keys": list(network.state_dict()),
        "parameters": [name for name, _ in network.named_parameters()],
        "buffers": [name for name, _ in network.named_buffers()],
    }


def own_names(network: nn.Module, model: nn.Module) -> list[str]:
    """The model's own parameters in a supernet, by the names that they have in the model."""
    names = {id(value): name for name, value in network.named_parameters(remove_duplicate=False)}
    assert len(names) >= len(list(model.parameters()))
    plain = [
        name.removeprefix("graph_module.").replace(".candidates.base", "") for name, _ in network.named_parameters()
    ]
    own = {name for name, _ in model.named_parameters()}
    return [name for name in plain if name in own]


@settings(max_examples=25)
@given(network=networks(), data=st.data())
def test_networks_keep_the_order_of_their_model(network: nn.Module, data: st.DataObject) -> None:
    given_order = order_of(network)
    traced = narfx.trace(network, input=SHAPE)
    net = Supernet(traced, separate_norms=data.draw(st.booleans()))
    lowered = narfx.lower(net, traced.space.base)
    for same in (traced.graph_module, lowered):
        found = order_of(same)
        assert (found["keys"], found["parameters"]) == (given_order["keys"], given_order["parameters"])
        left_out = set(given_order["buffers"]) - set(found["buffers"])
        assert all(name.endswith("passing") for name in left_out), "only a buffer neither saved nor used may go"
        assert found["buffers"] == [name for name in given_order["buffers"] if name not in left_out]
    assert own_names(net, network) == given_order["parameters"]
    with torch.no_grad():
        assert torch.equal(lowered(images(2, *SHAPE)), network(images(2, *SHAPE)))

    vector = tuple(data.draw(st.sampled_from(slot.legal)) for slot in traced.space.slots)
    other = order_of(narfx.lower(net, vector))
    for kind, names in given_order.items():
        kept = [name for name in other[kind] if name in names]
        assert kept == [name for name in names if name in kept]


def test_an_operator_stands_in_the_place_of_its_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.middle, self.first = network[2], network[1], network[0]

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.middle(self.first(x)))
            return y

    traced = narfx.trace(Backwards(), input=SHAPE)
    assert [slot.name for slot in traced.space.slots] == ["middle", "last"]
    lowered = narfx.lower(Supernet(traced), (1, 0))
    assert list(lowered.state_dict()) == [
        "last.weight",
        "last.bias",
        "middle.depthwise.weight",
        "middle.pointwise.weight",
        "middle.pointwise.bias",
        "first.weight",
        "first.bias",
    ]


class Shortcuts(nn.Module):
    """A residual network whose projections are registered before all else."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.norm = nn.Conv2d(8, 16, 1, stride=2), nn.BatchNorm2d(16)
        self.last, self.second, self.first = (nn.Conv2d(w, 16, 3, s, 1) for w, s in ((16, 1), (16, 1), (8, 2)))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        side = self.norm(self.projection(x))
        x = self.second(self.first(x).relu()) + side
        y: Tensor = self.last(x.relu())
        return y


@pytest.mark.parametrize("make", [Shortcuts, lambda: MODELS["resnet8"].factory(width=4)])
def test_shortcuts_stay_at_their_place_where_skips_are_searched(make: Any) -> None:
    model = settled(make())
    traced = narfx.trace(model, input=(3, 16, 16), search_skips=True)
    net = Supernet(traced)
    assert own_names(net, model) == [name for name, _ in model.named_parameters()]
    assert order_of(narfx.lower(net, traced.space.base)) == order_of(traced.graph_module) == order_of(model)
    closed = narfx.lower(net, traced.space.join((0,) * (len(traced.space) - len(traced.space.skip_slots)), ()))
    found = order_of(closed)
    assert found["keys"] == [key for key in model.state_dict() if key in found["keys"]]
    assert len(found["keys"]) < len(model.state_dict())


class Aliased(nn.Module):
    """Another name of a part comes before its first use, at the top where torch's copies leave one name out."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)
        self.alias = self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mark = nn.Parameter(torch.ones(1))
        self.other = self.mark

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.first(self.stem(x)).mean((2, 3)) * self.other)
        return logits


def test_copies_keep_the_order() -> None:
    model = settled(Aliased())
    traced = narfx.trace(model, input=SHAPE)
    lowered = narfx.lower(Supernet(traced), traced.space.base)
    assert order_of(lowered) == order_of(traced.graph_module) == order_of(model)
    for network in (copy.deepcopy(lowered), pickle.loads(pickle.dumps(lowered))):
        assert order_of(network)["parameters"] == order_of(model)["parameters"]


@settings(max_examples=10)
@given(network=networks())
def test_an_optimizer_of_the_model_goes_on_with_the_network(network: nn.Module) -> None:
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(images(4, *SHAPE)).square().sum().backward()
    optimizer.step()
    momenta = {name: optimizer.state[p].get("momentum_buffer") for name, p in network.named_parameters()}
    assert any(momentum is not None and momentum.any() for momentum in momenta.values())
    traced = narfx.trace(network, input=SHAPE)
    for other in (traced.graph_module, narfx.lower(Supernet(traced), traced.space.base)):
        going_on = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
        going_on.load_state_dict(optimizer.state_dict())
        named = dict(other.named_parameters())
        assert named.keys() == momenta.keys()
        for name, momentum in momenta.items():
            found = going_on.state[named[name]].get("momentum_buffer")
            assert (found is None) == (momentum is None), name
            assert momentum is None or torch.equal(found, momentum), name


@settings(max_examples=5)
@given(network=networks())
def test_an_average_of_weights_goes_by_position(network: nn.Module) -> None:
    traced = narfx.trace(network, input=SHAPE)
    averaged = AveragedModel(network)
    averaged.update_parameters(network)
    averaged.update_parameters(traced.graph_module)  # the mean of equal weights, unless they stand in another order
    for name, parameter in averaged.module.named_parameters():
        assert torch.allclose(parameter, network.get_parameter(name)), name
