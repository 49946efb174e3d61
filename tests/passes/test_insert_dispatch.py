"""Dispatch nodes: the base's function at first, then that of what is selected."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from sample_networks import Chain, Shared, images, part, settled
from small_traces import MODELS, SHAPE, dispatches, inserted, traced
from torch import Tensor, nn
from torch.fx.passes.infra.pass_manager import PassManager

import narfx
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.passes import InsertDispatch, Lower


@pytest.mark.parametrize("make", MODELS)
def test_base_and_trace_and_supernet_are_the_same_function(make: Callable[[], nn.Module]) -> None:
    model, x = settled(make()), images(2, *SHAPE)
    found = traced(model)
    with torch.no_grad():
        assert torch.equal(found.graph_module(x), model(x))
        assert torch.equal(inserted(found)(x), model(x))


@pytest.mark.parametrize("make", MODELS)
def test_a_second_run_changes_nothing(make: Callable[[], nn.Module]) -> None:
    found = traced(settled(make()))
    insert = InsertDispatch(found.space.slots, separate_norms=True)
    first = insert(copy.deepcopy(found.graph_module))
    assert first.modified
    code, modules = first.graph_module.code, dict(first.graph_module.named_modules())
    second = insert(first)
    assert not second.modified
    assert second.graph_module is first.graph_module
    assert second.graph_module.code == code
    assert dict(second.graph_module.named_modules()) == modules
    lower = Lower(found.space, found.space.base)
    lowered = lower(second)
    assert lowered.modified
    again = lower(lowered)
    assert not again.modified
    assert again.graph_module is lowered.graph_module


@pytest.mark.parametrize("make", MODELS)
def test_both_passes_run_in_the_pass_manager_of_torch(make: Callable[[], nn.Module]) -> None:
    model, x = settled(make()), images(2, *SHAPE)
    found = traced(model)
    insert = InsertDispatch(found.space.slots)
    for vector in (found.space.base, tuple(slot.legal[-1] for slot in found.space.slots)):
        result = PassManager([insert, Lower(found.space, vector)])(copy.deepcopy(found.graph_module))
        assert result.modified
        assert torch.equal(result.graph_module(x), narfx.lower(Supernet(found), vector)(x))
        assert torch.equal(result.graph_module(x), model(x)) == (vector == found.space.base)


def test_the_graph_stays_well_formed_and_the_node_keeps_its_target() -> None:
    found = traced(settled(Shared()))
    graph_module = inserted(found)
    graph_module.graph.lint()
    assert graph_module.code == found.graph_module.code
    slots = {node.target: node.meta.get("narfx_slot") for node in graph_module.graph.nodes if node.op == "call_module"}
    assert slots == {"stem": None, "again": 0}


def test_a_supernet_can_be_copied_and_each_copy_is_set_alone() -> None:
    net, x = Supernet(traced(settled(Chain()))).eval(), images(2, *SHAPE)
    other = copy.deepcopy(net)
    other.set_vector((1, 2))
    assert net.vector == (0, 0)
    net.set_vector((1, 2))
    assert torch.equal(net(x), other(x))
    other.set_vector((0, 0))
    assert not torch.equal(net(x), other(x))


def test_a_shared_module_is_one_slot_whose_calls_follow_one_choice() -> None:
    model = settled(Shared())
    found = traced(model)
    assert [[site.name for site in slot.sites] for slot in found.space.slots] == [["again", "again@1", "again@2"]]
    net = Supernet(found)
    assert list(dispatches(net.graph_module)) == ["again"]
    lowered = narfx.lower(net, (1,))
    assert lowered.code == found.graph_module.code
    assert [name for name, _ in part(lowered, "again").named_children()] == ["depthwise", "pointwise"]
    own, dwsep = found.space.slots[0].costs["params"][:2]
    assert own - dwsep == measure(model, SHAPE)["params"] - measure(lowered, SHAPE)["params"]


@pytest.mark.parametrize("make", MODELS)
def test_the_model_that_was_given_is_never_changed(make: Callable[[], nn.Module]) -> None:
    model = settled(make()).train()
    kept = copy.deepcopy(model.state_dict())
    classes = [type(module) for module in model.modules()]
    found = traced(model)
    code, state = found.graph_module.code, copy.deepcopy(found.graph_module.state_dict())
    net = Supernet(found).train()
    net.set_vector((1, *found.space.base[1:]))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(images(4, *SHAPE)).square().sum().backward()
    optimizer.step()
    narfx.lower(net, found.space.base)
    assert model.training
    assert [type(module) for module in model.modules()] == classes
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert found.graph_module.code == code
    assert all(torch.equal(value, state[key]) for key, value in found.graph_module.state_dict().items())


def test_a_dispatch_computes_what_is_selected() -> None:
    graph_module, x = inserted(traced(settled(Chain(1)))).double(), images(2, 8, 6, 6).double()
    (dispatch,) = dispatches(graph_module).values()
    one, two = dispatch.candidates["base"], dispatch.candidates["avgpool3x3"]
    assert dispatch.selected == ("base",)
    assert torch.equal(dispatch(x), one(x))
    dispatch.select("base", "avgpool3x3", weights=[0.25, torch.tensor(0.75)])
    assert torch.allclose(dispatch(x), 0.25 * one(x) + 0.75 * two(x))
    dispatch.select("avgpool3x3")
    assert torch.equal(dispatch(x), two(x))
    with pytest.raises(KeyError, match="no candidate 'conv9x9'"):
        dispatch.select("conv9x9")
    for names, weights in ((("base", "dwsep3x3"), None), ((), None), (("base",), [1.0, 2.0])):
        with pytest.raises(ValueError, match="select one name"):
            dispatch.select(*names, weights=weights)
    assert dispatch.selected == ("avgpool3x3",)


def test_each_operator_may_have_a_norm_of_its_own() -> None:
    model, x = settled(Chain()), images(4, *SHAPE)
    found = traced(model)
    net = Supernet(found, separate_norms=True)
    assert list(dispatches(net.graph_module)) == ["body.0", "body.1", "body.3", "body.4"]
    assert torch.equal(net.eval()(x), model(x))
    net.set_vector((1, 0))
    net.train()(x)
    norms, before = part(net, "graph_module.body.1.candidates"), part(model, "body.1").running_mean
    assert torch.equal(norms.base.running_mean, before)
    assert not torch.equal(norms.dwsep3x3.running_mean, before)
    lowered = narfx.lower(net.eval(), (1, 0))
    assert torch.equal(lowered(x), net(x))
    assert set(lowered.state_dict()) == set(narfx.lower(Supernet(found), (1, 0)).state_dict())


class ReadNorm(Chain):
    """A network that reads a norm's weight beside calling it."""

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = part(self, "body.1").weight.sum()
        return super().forward(x) * scale


class TwiceNorm(Chain):
    """A network that calls a norm twice."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(part(self, "body.1")(self.body(self.stem(x))).mean((2, 3)))
        return y


class TwoReaders(Chain):
    """A network in which not only a norm reads the site."""

    def forward(self, x: Tensor) -> Tensor:
        y = part(self, "body.0")(self.stem(x))
        logits: Tensor = self.head((part(self, "body.1")(y) + y).mean((2, 3)))
        return logits


class TwoNorms(Chain):
    """A network that calls one convolution twice, each time with a norm of its own."""

    def forward(self, x: Tensor) -> Tensor:
        y = part(self, "body.1")(part(self, "body.0")(self.stem(x)))
        logits: Tensor = self.head(part(self, "body.4")(part(self, "body.0")(y)).mean((2, 3)))
        return logits


@pytest.mark.parametrize("make", [ReadNorm, TwiceNorm, TwoReaders, TwoNorms, Shared])
def test_a_norm_that_something_else_uses_stays_one(make: Callable[[], nn.Module]) -> None:
    model, x = settled(make()), images(2, *SHAPE)
    net = Supernet(traced(model), separate_norms=True).eval()
    assert "body.1" not in dispatches(net.graph_module)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))


def test_candidates_take_type_mode_and_frozen_state_from_the_site() -> None:
    model = settled(Chain(1)).double()
    part(model, "body.0").weight.requires_grad_(False)
    (dispatch,) = dispatches(inserted(traced(model))).values()
    for module in dispatch.candidates.values():
        assert not any(part.training for part in module.modules())
        assert {(p.dtype, p.requires_grad) for p in module.parameters()} == {(torch.float64, False)}


def test_building_a_supernet_draws_nothing_from_the_global_generator() -> None:
    found = traced(settled(Chain()))
    state = torch.get_rng_state()
    Supernet(found)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = settled(Chain())
    with torch.no_grad():
        part(model, "body.3").weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"body\.3 are not all finite") as caught:
        Supernet(traced(model))
    assert (caught.value.kind, caught.value.where) == ("weights_not_finite", "body.3")
