"""Inserting dispatch nodes and lowering them: the laws that a user relies on."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sample_networks import Chain, ResidualNet, Shared, images, part, settled
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_manager import PassManager
from torch.nn.utils import parametrizations

import narfx
from narfx.bundle.onnx.write import compare_onnx, export_onnx
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.operators.dispatch import Dispatch
from narfx.passes import InsertDispatch, LiftFunctional, Lower, RestoreFunctional, verify_lowered
from narfx.passes.lift_functional import read_functional
from narfx.training.initialise import reinitialise

MODELS = [Chain, ResidualNet, Shared]
SHAPE = (3, 8, 8)


def traced(model: nn.Module, granularity: str = "conv") -> narfx.Traced:
    return narfx.trace(model, input=SHAPE, granularity=granularity)


def inserted(found: narfx.Traced, *, separate_norms: bool = False) -> GraphModule:
    insert = InsertDispatch(found.space.slots, separate_norms=separate_norms)
    result: GraphModule = insert(copy.deepcopy(found.graph_module)).graph_module
    return result


def dispatches(graph_module: GraphModule) -> dict[str, Dispatch]:
    return {name: module for name, module in graph_module.named_modules() if isinstance(module, Dispatch)}


@pytest.mark.parametrize("make", MODELS)
def test_base_and_trace_and_supernet_are_the_same_function(make: Callable[[], nn.Module]) -> None:
    model, x = settled(make()), images(2, *SHAPE)
    found = traced(model)
    with torch.no_grad():
        assert torch.equal(found.graph_module(x), model(x))
        assert torch.equal(inserted(found)(x), model(x))


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


def test_weights_stay_tied_in_the_supernet_and_after_lowering() -> None:
    net = Supernet(traced(settled(Shared())))
    net.set_vector((1,))
    net(images(2, *SHAPE)).sum().backward()
    assert part(net, "graph_module.again.candidates.dwsep3x3.depthwise").weight.grad is not None
    lowered = narfx.lower(net, (1,))
    assert len([name for name, _ in lowered.named_parameters() if name.startswith("again.")]) == 3


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


def test_a_dispatch_computes_what_is_selected() -> None:
    graph_module, x = inserted(traced(settled(Chain(1)))), images(2, 8, 6, 6)
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


def test_what_an_export_may_not_hold_is_named() -> None:
    found = traced(settled(Chain()))
    net = Supernet(found)
    lowered = narfx.lower(net, (1, 0))
    assert verify_lowered(lowered) == []
    assert any("body.0 is a Dispatch of narfx" in problem for problem in verify_lowered(net.graph_module))
    part(lowered, "body").train()
    assert "body is in training mode: call eval() first" in verify_lowered(lowered)
    lowered.eval()
    part(lowered, "body").orphan = nn.Conv2d(1, 1, 1).eval()
    assert verify_lowered(lowered) == ["body.orphan is not called by the graph"]
    lowered.delete_all_unused_submodules()
    assert verify_lowered(lowered) == []
    _, first, _, later, *_ = lowered.graph.nodes
    first.args = (later,)
    assert [p for p in verify_lowered(lowered) if "not well formed" in p]


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


def test_a_parameter_that_nothing_reads_is_named() -> None:
    lowered = narfx.lower(Supernet(traced(settled(Chain()))), (1, 0))
    lowered.register_parameter("left", nn.Parameter(torch.zeros(2)))
    part(lowered, "body").register_buffer("over", torch.zeros(2))
    assert verify_lowered(lowered) == ["body.over is not read by the graph", "left is not read by the graph"]
    assert verify_lowered(lowered, ["left"]) == ["body.over is not read by the graph"]


def test_parts_of_the_model_that_its_graph_does_not_use_are_no_fault(tmp_path: Path) -> None:
    class Auxiliary(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.5))
            self.spare = nn.Parameter(torch.zeros(2))

    found = traced(settled(Auxiliary()))
    lowered = narfx.lower(Supernet(found), (1, 0))
    assert verify_lowered(lowered, found.dropped) == []
    named = ["aside.0 is not called by the graph", "spare is not read by the graph"]
    assert set(named) < set(verify_lowered(lowered))
    lowered.register_parameter("left", nn.Parameter(torch.zeros(2)))
    assert verify_lowered(lowered, found.dropped) == ["left is not read by the graph"]
    # A file holds none of them.
    export_onnx(lowered, SHAPE, tmp_path / "model.onnx")
    assert compare_onnx(lowered, tmp_path / "model.onnx", SHAPE).passed


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
