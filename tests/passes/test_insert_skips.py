"""Gates for skips, and what lowering leaves of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_networks import Chain, images, part, settled
from torch import nn

import narfx
from narfx.bundle.onnx.write import compare_onnx, export_onnx
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.graph.tracing import trace_graph
from narfx.models import MODELS
from narfx.operators.dispatch import Shortcut, SkipGate
from narfx.passes import verify_lowered
from narfx.space.records import Vector

SHAPE = (3, 16, 16)


def opened(model: nn.Module, **options: Any) -> Traced:
    return narfx.trace(model, input=SHAPE, search_skips=True, **options)


def small() -> nn.Module:
    return settled(MODELS["resnet8"].factory(width=4))


def with_skips(traced: Traced, *skips: tuple[int, int]) -> Vector:
    """The base's operators with exactly these skips."""
    return traced.space.join((0,) * (len(traced.space) - len(traced.space.skip_slots)), skips)


def test_what_is_open_decides_what_is_in_the_lowered_network() -> None:
    model = small()
    traced = opened(model)
    net, keys = Supernet(traced), set(model.state_dict())
    projection = {key for key in keys if "shortcut" in key and key.startswith("stages.1")}
    assert traced.space.split(traced.space.base)[1] == ((0, 2), (2, 4), (4, 6))
    closed = narfx.lower(net, with_skips(traced, (0, 2), (4, 6)))
    assert keys - set(closed.state_dict()) == projection and not set(closed.state_dict()) - keys
    extra = narfx.lower(net, with_skips(traced, (0, 2), (2, 4), (4, 6), (1, 4), (1, 3), (0, 6)))
    parts = ("conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    added = {f"skips.{pair}.{name}" for pair in ("1_3", "1_4", "0_6") for name in (*parts, "norm.num_batches_tracked")}
    assert set(extra.state_dict()) - keys == added
    assert part(extra, "skips.0_6.conv").stride == (4, 4)
    assert "stages.1" not in " ".join(name for name, _ in closed.named_modules() if "shortcut" in name)
    for network in (closed, extra):
        assert verify_lowered(network) == []


def test_a_skip_between_equal_shapes_is_a_plain_add() -> None:
    traced = opened(settled(Chain(4)))
    lowered = narfx.lower(Supernet(traced), with_skips(traced, (0, 2), (1, 4), (0, 4)))
    assert set(lowered.state_dict()) == set(traced.graph_module.state_dict())
    adds = [[str(a) for a in node.args] for node in lowered.graph.nodes if "add" in str(node.target)]
    assert adds == [["body_4", "stem"], ["body_10", "stem"], ["add_1", "body_2"]]


def test_a_closed_skip_is_not_computed() -> None:
    traced = opened(small())
    net, x = Supernet(traced).eval(), images(2, *SHAPE)
    for module in net.modules():
        if isinstance(module, (Shortcut, SkipGate)):
            for parameter in module.parameters():
                parameter.data.fill_(float("nan"))  # zero times this is not zero
    vector = with_skips(traced, (0, 2), (4, 6))
    assert traced.space.split(vector)[1] == ((0, 2), (4, 6))
    net.set_vector(vector)
    assert not torch.isfinite(net(x)).all()  # (4, 6) is open, and its projection is among them
    net.set_vector(with_skips(traced, (0, 2)))
    assert torch.isfinite(net(x)).all()
    net.train()(x).sum().backward()
    idle = {id(p) for p in net.parameters()} - {id(p) for p in net.active_parameters()}
    assert idle and all(p.grad is None for p in net.parameters() if id(p) in idle)


def test_a_gate_says_what_is_open() -> None:
    traced = opened(small())
    net = Supernet(traced)
    net.set_vector(with_skips(traced, (0, 4), (2, 6)))
    gates = [module for module in net.modules() if isinstance(module, SkipGate)]
    shortcuts = {module.pair: module.open for module in net.modules() if isinstance(module, Shortcut)}
    assert [gate.opened for gate in gates] == [(), (), ((0, 4),), (), ((2, 6),)]
    assert shortcuts == {(2, 4): False, (4, 6): False}
    assert "open=[(2, 6)] of 5" in repr(gates[-1])
    assert gates[-1].pairs[0] == (4, 6)  # the base's own comes first


def test_names_of_the_user_are_left_alone() -> None:
    class Named(Chain):
        def __init__(self) -> None:
            super().__init__(3)
            self.skips, self.skip_gates = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 1, stride=2)
            self.head = nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.skip_gates(self.skips(self.body(self.stem(x)))).mean((2, 3)))
            return y

    traced = opened(settled(Named()))
    net, x = Supernet(traced).eval(), images(2, *SHAPE)
    vector = with_skips(traced, (0, 5), (1, 5))
    net.set_vector(vector)
    lowered = narfx.lower(net, vector)
    assert torch.equal(lowered(x), net(x))
    assert {"skips.weight", "skip_gates.weight", "skips_1.0_5.conv.weight"} <= set(lowered.state_dict())


def test_projections_take_type_and_frozen_state_from_their_place() -> None:
    traced = opened(small().double().requires_grad_(False))
    state = torch.get_rng_state()
    net = Supernet(traced)
    assert torch.equal(torch.get_rng_state(), state)
    assert {(p.dtype, p.requires_grad) for p in net.parameters()} == {(torch.float64, False)}
    gates = [part for module in net.modules() if isinstance(module, (Shortcut, SkipGate)) for part in module.modules()]
    assert len(gates) > 10 and not any(module.training for module in gates)
    again = Supernet(traced).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in net.state_dict().items())


def test_supernets_are_copied_and_traced_again() -> None:
    traced = opened(small())
    net, x = Supernet(traced).eval(), images(2, *SHAPE)
    net.set_vector(with_skips(traced, (0, 3), (1, 4), (4, 6)))
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    twin.set_vector(traced.space.base)
    assert torch.equal(twin(x), traced.graph_module(x)) and not torch.equal(twin(x), net(x))
    traced_again = trace_graph(net.graph_module).graph_module
    assert torch.equal(traced_again(x), net(x))


def test_a_lowered_network_has_skips_of_its_own() -> None:
    traced = opened(small())
    vector = with_skips(traced, (0, 2), (1, 3), (2, 4), (1, 5), (3, 6))
    lowered = narfx.lower(Supernet(traced), vector)
    again = opened(lowered)
    assert again.skips is not None and traced.skips is not None
    assert len(again.skips.nodes) == len(traced.skips.nodes)
    assert again.space.split(again.space.base)[1] == traced.space.split(vector)[1]
    assert again.cost == traced.space.cost(vector)


@pytest.mark.parametrize("skips", [((2, 4), (1, 6), (0, 3)), ((0, 2), (1, 5), (4, 6))])
def test_an_export_computes_what_its_network_computes(
    skips: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:  # fmt: skip
    traced = opened(small())
    lowered = narfx.lower(Supernet(traced), with_skips(traced, *skips))
    path = tmp_path / "model.onnx"
    export_onnx(lowered, traced.input, path)
    assert compare_onnx(lowered, path, traced.input).passed
