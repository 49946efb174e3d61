"""Supernets of narrower spaces: only what is legal is built, what is set is computed, every legal vector lowers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_networks import Chain, ResidualNet, Shared, images, settled
from torch import Tensor, nn

import narfx
from narfx.compiler.open import open_architecture
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.inputs.model_ref import load_model
from narfx.models import MODELS
from narfx.operators.dispatch import Dispatch, SkipGate
from narfx.passes import verify_lowered
from narfx.space.budget import Budget
from narfx.space.space import SearchSpace

SHAPE = (3, 8, 8)
X = images(2, *SHAPE)


class Functional(nn.Module):
    """Two convolutions as functional calls, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8, 3, 3)), nn.Parameter(torch.randn(8))
        self.twice = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(self.stem(x), self.weight, self.bias, padding=1).relu()
        for _ in range(2):
            x = nn.functional.conv2d(x, self.twice, padding=1)
        return x


def whole(model: nn.Module, **options: Any) -> Traced:
    return narfx.trace(settled(model), input=SHAPE, **options)


def same(traced: Traced, net: Supernet, vector: tuple[int, ...]) -> nn.Module:
    """The network of a vector, proven to be what the supernet computes and what the whole space's supernet gives."""
    lowered = narfx.lower(net, vector)
    theirs = narfx.lower(Supernet(traced, separate_norms=net.separate_norms), vector)
    net.set_vector(vector)
    assert net.vector == vector
    with torch.no_grad():
        expected = theirs(X)
        assert torch.equal(net(X), expected)
        assert torch.equal(lowered(X), expected)
    assert list(lowered.state_dict()) == list(theirs.state_dict())
    assert lowered.code == theirs.code
    assert verify_lowered(lowered, traced.dropped) == []
    return lowered


@pytest.mark.parametrize("separate_norms", [False, True])
@pytest.mark.parametrize("way", ["argument", "replaced"])
@pytest.mark.parametrize("make", [Chain, ResidualNet, Shared, Functional])
def test_every_legal_vector_is_computed_and_lowered(make: Any, way: str, separate_norms: bool) -> None:
    traced = whole(make())
    count = len(traced.space)
    for choices in ({0: ["dwsep3x3"]}, {0: ["dwsep3x3", "avgpool3x3"], count - 1: ["maxpool3x3"]}, {0: ["base"]}):
        space = traced.space.restrict(choices)
        given = {"space": space} if way == "argument" else {}
        net = Supernet(
            traced if way == "argument" else replace(traced, space=space), separate_norms=separate_norms, **given
        ).eval()
        assert net.space == space
        for vector in list(itertools.product(*(slot.legal for slot in space.slots)))[:: 1 + space.size // 8]:
            same(traced, net, vector)


def test_it_starts_at_the_base_where_that_is_legal_and_else_at_the_first_legal_choice() -> None:
    traced = whole(Chain(3))
    space = traced.space.restrict({0: ["dwsep3x3"], 1: ["avgpool3x3", "maxpool3x3"]})
    net = Supernet(traced, space=space).eval()
    assert net.vector == (1, 2, 0)
    with torch.no_grad():
        assert torch.equal(net(X), narfx.lower(Supernet(traced), (1, 2, 0))(X))


def test_only_what_is_legal_is_built() -> None:
    traced = whole(Functional())
    net = Supernet(traced, space=traced.space.restrict({0: ["dwsep3x3"], 1: ["base", "avgpool3x3"]}))
    built = [list(module.candidates) for module in net.modules() if isinstance(module, Dispatch)]
    assert built == [["dwsep3x3"], ["base", "avgpool3x3"]]
    assert "graph_module.weight" not in net.state_dict()
    lowered = narfx.lower(net, (1, 0))
    assert [p.shape for p in lowered.parameters()] == [
        p.shape for p in narfx.lower(Supernet(traced), (1, 0)).parameters()
    ]
    net.set_vector((1, 3))
    assert {p.shape for p in net.active_parameters()} == {p.shape for p in narfx.lower(net, (1, 3)).parameters()}


def test_what_a_narrower_space_leaves_out_is_refused() -> None:
    traced = whole(Chain())
    net = Supernet(traced, space=traced.space.restrict({0: [1]}))
    for refused in (lambda: net.set_vector((0, 0)), lambda: narfx.lower(net, (0, 0))):
        with pytest.raises(UsageError, match="entry 0 \\(base\\) is not legal at slot 0"):
            refused()
    assert net.vector == (1, 0)
    with pytest.raises(UsageError, match=r"base is not legal at slot 0 .*left it out"):
        net.set_mixture(torch.ones(2, 4) / 4)


def test_a_budget_leaves_all_operators() -> None:
    traced = whole(Chain())
    base = traced.space.cost(traced.space.base)
    net = Supernet(traced, space=traced.space.within(Budget.parse("macs<=0.9x", base)))
    assert net.vector == (0, 0)
    same(traced, net.eval(), (1, 3))


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace.uniform(2, 4),
        whole(Chain(3)).space,
        whole(ResidualNet()).space,
        whole(Chain(), operators=("base", "dwsep3x3")).space,
        None,
        "base",
    ],
)
def test_a_space_of_another_trace_is_refused(space: Any) -> None:
    traced = whole(Chain())
    if space is None:  # a wider one than the trace has
        wide, traced = traced.space, replace(traced, space=traced.space.restrict({0: [1]}))
        space = wide
    with pytest.raises(UsageError, match=r"traced.space.restrict") as caught:
        Supernet(traced, space=space)
    assert (caught.value.kind, caught.value.where) == ("foreign_space", "space")


def opened() -> Traced:
    return whole(MODELS["resnet8"].factory(width=4), search_skips=True)


@settings(max_examples=8)
@given(data=st.data())
def test_narrower_spaces_with_skips(data: st.DataObject) -> None:
    traced = opened()
    choices = {
        index: data.draw(st.sets(st.sampled_from(slot.legal), min_size=1))
        for index, slot in enumerate(traced.space.slots)
        if data.draw(st.booleans())
    }
    space = traced.space.restrict(choices)
    net = Supernet(traced, space=space).eval()
    start = net.vector
    assert start == tuple(0 if 0 in slot.legal else slot.legal[0] for slot in space.slots)
    same(traced, net, start)
    for _ in range(2):
        same(traced, net, tuple(data.draw(st.sampled_from(slot.legal)) for slot in space.slots))


def test_a_skip_that_stays_closed_has_no_projection() -> None:
    traced = opened()
    closed = {index: [0] for index in traced.space.skip_slots}
    net = Supernet(traced, space=traced.space.restrict(closed)).eval()
    gates = [module for module in net.modules() if isinstance(module, SkipGate)]
    assert sorted(pair for gate in gates for pair in gate.pairs) == [(0, 2), (2, 4), (4, 6)]
    assert not any(len(gate.projections) for gate in gates)
    same(traced, net, traced.space.base)


def test_base_skips_may_have_to_be_closed() -> None:
    traced = opened()
    closing = {i: [1] for i, slot in enumerate(traced.space.slots) if slot.skip is not None and slot.skip.base}
    net = Supernet(traced, space=traced.space.restrict(closing)).eval()
    lowered = same(traced, net, net.vector)
    assert not [key for key in lowered.state_dict() if "shortcut" in key]


def test_an_architecture_of_a_narrower_trace_opens_with_the_model(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3))\n"
    )
    traced = narfx.trace(load_model(str(file)), input=SHAPE, reference=str(file))
    narrow = replace(traced, space=traced.space.restrict({0: [1], 1: [0, 1]}))
    assert narrow.architecture((1, 0)) == traced.architecture((1, 0))
    narrow.architecture((1, 1)).save(tmp_path / "arch.json")
    torch.save(traced.graph_module.state_dict(), tmp_path / "base.pt")
    found = open_architecture(narfx.Architecture.load(tmp_path / "arch.json"), weights=str(tmp_path / "base.pt"))
    assert torch.equal(found.network(X), narfx.lower(Supernet(narrow), (1, 1)).eval()(X))
    with pytest.raises(UsageError, match="not legal at slot 0"):
        narrow.architecture((0, 0))
