"""Supernets: what is active, what a step changes, and where the weights start."""

from __future__ import annotations

import copy

import pytest
import torch
from sample_networks import Chain, ResidualNet, images, part, settled
from sample_supernets import SHAPE, supernet
from torch import nn

import narfx
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError


def step(net: Supernet, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    optimizer.zero_grad(set_to_none=True)
    net(images(4, *SHAPE, seed=seed)).square().sum().backward()
    optimizer.step()


def candidate(key: str) -> str | None:
    """The operator that a parameter of a supernet belongs to, ``None`` outside the slots."""
    parts = key.split(".")
    return parts[parts.index("candidates") + 1] if "candidates" in parts else None


@pytest.mark.parametrize("separate_norms", [False, True])
def test_inactive_operators_are_not_touched_by_a_step(separate_norms: bool) -> None:
    net = supernet(separate_norms=separate_norms).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    names = net.space.operators
    for entry in range(len(names)):  # every operator gets a momentum that a careless step would apply
        net.set_vector([entry] * len(net.space))
        step(net, optimizer, entry)
    net.set_vector((1, 2))
    before = copy.deepcopy(net.state_dict())
    momentum = {id(p): optimizer.state[p]["momentum_buffer"].clone() for p in net.parameters()}
    step(net, optimizer, 9)
    active = {id(p) for p in net.active_parameters()}
    for name, parameter in net.named_parameters():
        at, operator = name.split(".candidates")[0], candidate(name)
        chosen = names[1 if at.endswith(("body.0", "body.1")) else 2]
        assert (id(parameter) in active) == (operator in (None, chosen)), name
        changed = not torch.equal(parameter, before[name])
        assert changed == (id(parameter) in active), name
        assert (parameter.grad is not None) == (id(parameter) in active), name
        same_momentum = torch.equal(optimizer.state[parameter]["momentum_buffer"], momentum[id(parameter)])
        assert same_momentum == (id(parameter) not in active), name


def test_active_parameters_are_those_of_the_lowered_network() -> None:
    net = supernet(settled(ResidualNet()))
    for vector in ((0, 0, 0, 0), (1, 2, 3, 0), (3, 3, 3, 3)):
        net.set_vector(vector)
        lowered = narfx.lower(net, vector)
        assert [p.shape for p in net.active_parameters()] == [p.shape for p in lowered.parameters()]


def test_it_starts_at_the_base_and_keeps_a_vector_that_was_refused_out() -> None:
    net = supernet()
    assert net.vector == (0, 0) == net.space.base
    net.set_vector((1, 3))
    for wrong, kind in (
        ((0,), "vector_length"),
        ((0, 4), "vector_index"),
        ((0, -1), "vector_index"),
        ((0, 1.0), "vector_entry"),
        ((0, True), "vector_entry"),
    ):
        with pytest.raises(UsageError) as caught:
            net.set_vector(wrong)  # type: ignore[arg-type]
        assert caught.value.kind == kind
        with pytest.raises(UsageError):
            narfx.lower(net, wrong)  # type: ignore[arg-type]
    assert net.vector == (1, 3)


def test_operators_are_chosen_by_name_too() -> None:
    net = supernet()
    net.set_vector(["dwsep3x3", 2])
    assert net.vector == net.space.validate(("dwsep3x3", "maxpool3x3")) == (1, 2)
    assert net.space.cost(["dwsep3x3", "maxpool3x3"]) == net.space.cost((1, 2))
    assert [*narfx.lower(net, ["base", "base"]).state_dict()] == [*narfx.lower(net, (0, 0)).state_dict()]
    with pytest.raises(
        UsageError, match=r"slot 0 \(body.0\) has no choice 'dwsep': its choices are 0 base, 1 dwsep3x3"
    ):
        net.set_vector(["dwsep", 0])
    with pytest.raises(UsageError, match="one index or name of a choice for each slot, not 'ab'"):
        net.set_vector("ab")


def test_what_a_notebook_shows_is_short_and_escaped() -> None:
    class Named(Chain):
        """A model whose name must not reach a page as markup."""

    Named.__name__ = "<b>Chain</b>"
    traced = narfx.trace(settled(Named()), input=SHAPE)
    net = Supernet(traced)
    net.set_vector((1, 0))
    for shown in (traced, traced.space, net):
        assert len(repr(shown)) < 300 and "\n" not in repr(shown), repr(shown)
        assert "2 slots, operators base, dwsep3x3, maxpool3x3, avgpool3x3, 16 vectors, budget none" in repr(shown)
        page = shown._repr_html_()
        assert "<table>" in page and "<td>body.0</td>" in page and "<b>" not in page
    assert "1 of 2 slots" in repr(net) and "<td>dwsep3x3</td>" in net._repr_html_()


def test_an_operator_that_its_slot_refuses_is_named() -> None:
    model = settled(Chain())
    part(model, "body")[3] = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    net = supernet(model)
    with pytest.raises(UsageError, match=r"entry 2 \(maxpool3x3\) is not legal at slot 1 \(body.3\): pooling has"):
        net.set_vector((0, 2))


def test_weights_are_shared_between_vectors() -> None:
    net = supernet().eval()
    net.set_vector((1, 0))
    with torch.no_grad():
        part(net, "graph_module.body.0.candidates.dwsep3x3.pointwise").weight.zero_()
    for vector in ((1, 0), (1, 2)):
        pointwise = part(narfx.lower(net, vector), "body.0.pointwise")
        assert not pointwise.weight.any()
    assert part(narfx.lower(net, (0, 0)), "body.0").weight.any()


def test_every_candidate_starts_from_the_base() -> None:
    net, other = supernet(), supernet()
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    wide = supernet(settled(Chain(), seed=1))
    starts = [key for key in net.state_dict() if key.endswith("weight") and candidate(key) not in (None, "base")]
    assert len(starts) == 8
    assert not any(torch.equal(net.state_dict()[key], wide.state_dict()[key]) for key in starts)
