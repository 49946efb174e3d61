"""Lowering: the function of the vector, and nothing of narfx left."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from sample_networks import Chain, ResidualNet, Shared, images, part, settled
from small_traces import MODELS, SHAPE, dispatches, inserted, traced
from torch import Tensor, nn

import narfx
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.passes import Lower, verify_lowered


@pytest.mark.parametrize("granularity", ["conv", "block"])
@pytest.mark.parametrize("make", MODELS)
def test_every_vector_runs_and_lowers_to_the_same_function(make: Callable[[], nn.Module], granularity: str) -> None:
    model, x = settled(make()), images(2, *SHAPE)
    found = traced(model, granularity)
    net = Supernet(found).eval()
    for vector in itertools.product(*(slot.legal for slot in found.space.slots)):
        net.set_vector(vector)
        lowered = narfx.lower(net, vector)
        with torch.no_grad():
            assert torch.equal(lowered(x), net(x))
            assert lowered(x).shape == model(x).shape
        assert measure(lowered, SHAPE) == found.space.cost(vector)
        assert verify_lowered(lowered) == []


@pytest.mark.parametrize("make", MODELS)
def test_the_zero_vector_gives_code_keys_and_weights_back(make: Callable[[], nn.Module]) -> None:
    model = settled(make())
    found = traced(model)
    lowered = Lower(found.space, found.space.base)(inserted(found)).graph_module
    assert lowered.code == found.graph_module.code
    assert list(lowered.state_dict()) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in lowered.state_dict().items())
    assert [n.meta.get("stack_trace") for n in lowered.graph.nodes] == [
        n.meta.get("stack_trace") for n in found.graph_module.graph.nodes
    ]


def test_buffers_that_are_not_saved_stay_so() -> None:
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean: Tensor
            self.register_buffer("mean", torch.ones(1, 3, 1, 1), persistent=False)
            self.inner = Chain(1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x - self.mean)
            return y

    model = settled(Normalising())
    net = Supernet(traced(model))
    assert set(narfx.lower(net, (0,)).state_dict()) == set(model.state_dict())


def test_a_lowered_graph_holds_nothing_of_narfx() -> None:
    found = traced(settled(ResidualNet()))
    lowered = narfx.lower(Supernet(found), (1, 2, 3, 0))
    assert b"narfx" not in pickle.dumps(lowered)
    assert not any(key.startswith("narfx") for node in lowered.graph.nodes for key in node.meta)
    assert not [m for m in lowered.modules() if type(m).__module__.split(".")[0] == "narfx"]


def test_a_lowered_graph_copies_and_pickles() -> None:
    found, x = traced(settled(ResidualNet())), images(2, *SHAPE)
    lowered = narfx.lower(Supernet(found), (1, 2, 3, 0))
    for other in (copy.deepcopy(lowered), pickle.loads(pickle.dumps(lowered))):
        assert list(other.state_dict()) == list(lowered.state_dict())
        assert torch.equal(other(x), lowered(x))


def test_weights_stay_tied_in_the_supernet_and_after_lowering() -> None:
    net = Supernet(traced(settled(Shared())))
    net.set_vector((1,))
    net(images(2, *SHAPE)).sum().backward()
    assert part(net, "graph_module.again.candidates.dwsep3x3.depthwise").weight.grad is not None
    lowered = narfx.lower(net, (1,))
    assert len([name for name, _ in lowered.named_parameters() if name.startswith("again.")]) == 3


def test_lowering_leaves_the_supernet_as_it_was() -> None:
    net, x = Supernet(traced(settled(Chain()))).eval(), images(2, *SHAPE)
    net.set_vector((2, 0))
    before, state = net(x), copy.deepcopy(net.state_dict())
    for vector in ((1, 1), (2, 0)):
        lowered = narfx.lower(net, vector)
        assert net.vector == (2, 0)
        assert torch.equal(net(x), before)
        for tensor in lowered.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_untouched_sites_keep_their_keys() -> None:
    model = settled(Chain())
    lowered = narfx.lower(Supernet(traced(model)), (1, 0))
    keys, own = set(model.state_dict()), set(lowered.state_dict())
    assert keys - own == {"body.0.weight"}
    assert own - keys == {"body.0.depthwise.weight", "body.0.pointwise.weight"}


def test_lowering_neither_reads_nor_changes_what_a_dispatch_has_selected() -> None:
    found, x = traced(settled(Chain(1))), images(2, *SHAPE)
    graph_module = inserted(found)
    (dispatch,) = dispatches(graph_module).values()
    expected = [Lower(found.space, (entry,))(graph_module).graph_module(x) for entry in range(4)]
    assert torch.equal(expected[0], found.graph_module(x))
    for names, weights in ((("base", "dwsep3x3"), [0.5, 0.5]), (("dwsep3x3",), [2.0]), (("avgpool3x3",), None)):
        dispatch.select(*names, weights=weights)
        before = graph_module(x)
        for entry in range(4):
            assert torch.equal(Lower(found.space, (entry,))(graph_module).graph_module(x), expected[entry])
        assert dispatch.selected == names
        assert torch.equal(graph_module(x), before)


def test_a_vector_that_is_not_legal_is_refused_before_anything_is_lowered() -> None:
    found = traced(settled(Chain(1)))
    for wrong, kind in (((4,), "vector_index"), ((0, 0), "vector_length")):
        with pytest.raises(UsageError) as caught:
            Lower(found.space, wrong)
        assert caught.value.kind == kind
