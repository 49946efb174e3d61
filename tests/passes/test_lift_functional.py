"""Convolutions written as functions: lifted into modules, refined, and written again."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from sample_networks import Chain, images, part, settled
from small_traces import SHAPE, traced
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrizations

import narfx
from narfx.compiler.supernet import Supernet
from narfx.graph.cost import measure
from narfx.passes import InsertDispatch, LiftFunctional, Lower, RestoreFunctional, verify_lowered
from narfx.passes.lift_functional import read_functional
from narfx.training.initialise import reinitialise


class Raw(nn.Module):
    """Parameters, and a layer under the name that lifting would take."""

    def __init__(self, *, taken: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8, 3, 3) / 8), nn.Parameter(torch.randn(8))
        if taken:
            self.weight_conv = nn.Conv2d(3, 3, 1)


class FunctionalNet(nn.Module):
    """Three convolutions as functional calls, one of them called twice, and a module between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Raw()
        self.twice = nn.Parameter(torch.randn(8, 4, 3, 3) / 6)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.conv2d(x, self.block.weight, self.block.bias, 1, "same").relu_()
        x = nn.functional.conv2d(input=x, weight=self.twice, stride=(1, 1), padding=1, groups=2)
        y: Tensor = self.norm(nn.functional.conv2d(x, self.twice, None, (1, 1), 1, 1, 2))
        return y


def test_functional_convolutions_are_lifted_and_written_again() -> None:
    model, x = settled(FunctionalNet()), images(2, *SHAPE)
    found = traced(model)
    assert [site.name for site in found.space.sites] == ["block.weight_conv", "twice_conv", "twice_conv@1"]
    assert len(found.space) == 2
    assert list(found.graph_module.state_dict()) == list(model.state_dict())
    net = Supernet(found).eval()
    for vector in itertools.product(*(slot.legal for slot in found.space.slots)):
        net.set_vector(vector)
        lowered = narfx.lower(net, vector)
        with torch.no_grad():
            assert torch.equal(lowered(x), net(x))
        assert measure(lowered, SHAPE) == found.space.cost(vector)
        assert verify_lowered(lowered) == []
        # What an operator replaced leaves no parameter behind; what stays is the user's own key.
        keys = set(lowered.state_dict())
        assert ("block.weight" in keys, "twice" in keys) == (vector[0] == 0, vector[1] == 0)
        if not any(vector):
            assert lowered.code == found.graph_module.code
            assert list(lowered.state_dict()) == list(model.state_dict())
            with torch.no_grad():
                assert torch.equal(lowered(x), model(x))


def test_lifting_is_idempotent_and_restoring_undoes_it() -> None:
    found = traced(settled(FunctionalNet()))
    copied, targets = copy.deepcopy(found.graph_module), [site.target for site in found.space.sites]
    assert LiftFunctional(targets)(copied).modified
    assert copied.code != found.graph_module.code
    assert not LiftFunctional(targets)(copied).modified
    again = copy.deepcopy(copied)  # a copy has the names free that the lifted graph no longer uses
    assert RestoreFunctional()(again).modified
    assert again.code == found.graph_module.code
    assert list(again.state_dict()) == list(found.graph_module.state_dict())
    assert not RestoreFunctional()(again).modified


def marked(graph_module: GraphModule) -> list[tuple[object, ...]]:
    """Give each node meta and a type of its own; what each then has."""
    for index, node in enumerate(graph_module.graph.nodes):
        node.meta["mine"], node.type = index + 1, Tensor if index % 2 else None
    return told(graph_module)


def told(graph_module: GraphModule) -> list[tuple[object, ...]]:
    return [
        (node.op, node.target, node.meta.get("mine"), node.stack_trace, node.type) for node in graph_module.graph.nodes
    ]


def test_lifted_and_written_again_each_node_has_its_meta_and_type() -> None:
    found = traced(settled(FunctionalNet()))
    given = copy.deepcopy(found.graph_module)
    before = marked(given)
    for lift in (
        LiftFunctional([site.target for site in found.space.sites]),
        InsertDispatch(found.space.slots),
    ):
        lifted = lift(copy.deepcopy(given)).graph_module
        assert all(node.meta["mine"] for node in lifted.graph.nodes)
        restore = RestoreFunctional() if isinstance(lift, LiftFunctional) else Lower(found.space, found.space.base)
        assert told(restore(copy.deepcopy(lifted)).graph_module) == before
        assert told(restore(lifted).graph_module) == before


def test_a_pickled_supernet_lowers_as_the_one_it_was() -> None:
    model, x = settled(FunctionalNet()), images(2, *SHAPE)
    found = traced(model)
    net = Supernet(found).eval()
    again = pickle.loads(pickle.dumps(net))
    for vector in itertools.product(*(slot.legal for slot in found.space.slots)):
        ours, theirs = narfx.lower(net, vector), narfx.lower(again, vector)
        assert list(theirs.state_dict()) == list(ours.state_dict())
        assert verify_lowered(theirs) == []
        assert b"narfx" not in pickle.dumps(theirs)
        with torch.no_grad():
            assert torch.equal(ours(x), theirs(x))
        if not any(vector):
            assert list(theirs.state_dict()) == list(model.state_dict())
            assert theirs.code == found.graph_module.code


def test_what_a_pickle_cannot_hold_may_stand_in_the_meta_of_a_parameter() -> None:
    found = traced(settled(FunctionalNet()))
    for node in found.graph_module.graph.nodes:
        node.meta["mine"] = lambda: None
    again = pickle.loads(pickle.dumps(Supernet(found)))
    assert narfx.lower(again, found.space.base).code == found.graph_module.code


def test_a_lifted_convolution_takes_a_name_that_is_free() -> None:
    class Taken(FunctionalNet):
        def __init__(self) -> None:
            super().__init__()
            self.block = Raw(taken=True)
            self.dropout = nn.Dropout(0.25)

        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(self.block.weight_conv(x))
            return nn.functional.dropout(self.dropout(x), training=self.training)

    model, x = settled(Taken()), images(2, *SHAPE)
    found = traced(model)
    assert [site.target for site in found.space.sites][:2] == ["stem", "block.weight_conv_1"]
    lowered = narfx.lower(Supernet(found), found.space.base).eval()
    assert lowered.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(lowered(x), model(x))
    assert isinstance(lowered.get_submodule("dropout_1"), nn.Dropout)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrized_convolution_is_a_site(norm: str) -> None:
    model, x = settled(Chain(2)), images(2, *SHAPE)
    getattr(parametrizations, norm)(part(model, "body.0"))
    model.eval()
    found = traced(model)
    assert [site.name for site in found.space.sites] == ["body.0", "body.3"]
    net = Supernet(found).eval()
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    base = narfx.lower(net, (0, 0))
    assert list(base.state_dict()) == list(model.state_dict())
    weight = part(model, "body.0").weight
    assert isinstance(weight, Tensor)
    pooled = narfx.lower(net, (2, 0))
    pointwise = pooled.get_submodule("body.0.pointwise").weight
    assert isinstance(pointwise, Tensor)
    # Pooling starts from the sum over the taps of the weight that the convolution really has.
    assert torch.allclose(pointwise, weight.sum((2, 3), keepdim=True), atol=1e-6)
    assert pooled(x).shape == model(x).shape


def test_weights_assigned_to_a_supernet_reach_the_functional_call() -> None:
    found = traced(settled(FunctionalNet()))
    net = Supernet(found).eval()
    state = {key: value * 2 for key, value in net.state_dict().items()}
    net.load_state_dict(state, assign=True)
    lowered = narfx.lower(net, found.space.base)
    assert lowered.state_dict().keys() == found.graph_module.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(lowered(images(2, *SHAPE)), net(images(2, *SHAPE)))


def test_functional_convolutions_are_part_of_their_block() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Raw(), Raw()

        def forward(self, x: Tensor) -> Tensor:
            y = torch.conv2d(x, self.one.weight, self.one.bias, padding=(1,)).relu()
            return x + torch.conv2d(y, self.two.weight, padding=1)

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Block(), Block())
    found = traced(model, "block")
    assert [len(slot.sites) for slot in found.space.slots] == [2, 2]


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_the_cost_of_a_parametrized_site_is_that_of_its_network(norm: str) -> None:
    model = Chain(2)
    getattr(parametrizations, norm)(part(model, "body.0"))
    found = traced(model.eval())
    net = Supernet(found)
    for vector in ((0, 0), (1, 0), (0, 3), (2, 1)):
        assert measure(narfx.lower(net, vector), SHAPE) == found.space.cost(vector)


@pytest.mark.parametrize("make", [FunctionalNet, lambda: with_norm("weight_norm"), lambda: with_norm("orthogonal")])
def test_fresh_weights_are_fresh_however_a_convolution_is_written(make: Callable[[], nn.Module]) -> None:
    network = traced(make().eval()).graph_module
    drawn = []
    for seed in (0, 1, 1):
        left = reinitialise(network, seed)
        assert left == []
        reads = read_functional(network).values()
        paths = {conv.weight for conv in reads if not isinstance(conv, str)}
        weights: list[Tensor] = [network.get_parameter(path) for path in sorted(paths)]
        weights += [conv.weight for conv in network.modules() if isinstance(conv, nn.Conv2d)]
        drawn.append([weight.detach().clone() for weight in weights])
    assert len(drawn[0]) == 3
    assert not any(map(torch.equal, drawn[0], drawn[1]))
    assert all(map(torch.equal, drawn[1], drawn[2]))


def with_norm(name: str) -> nn.Module:
    model = Chain(2)
    getattr(parametrizations, name)(part(model, "body.0"))
    return model
