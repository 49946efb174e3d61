"""Shared weights: who is touched by a training step, and which statistics a sub-network is judged by."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from sample_networks import Chain, ResidualNet, images, part, settled
from torch import Tensor, nn

import narfx
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.graph.batchnorm import batch_statistics, recalibrate

SHAPE = (3, 8, 8)


def supernet(model: nn.Module | None = None, *, separate_norms: bool = False) -> Supernet:
    model = settled(Chain()) if model is None else model
    return Supernet(narfx.trace(model, input=SHAPE), separate_norms=separate_norms)


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


def norms(module: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (part for part in module.modules() if isinstance(part, nn.BatchNorm2d))


def test_batch_statistics_normalise_by_the_batch_and_keep_nothing() -> None:
    model, x = settled(Chain()), images(8, *SHAPE)
    part(model, "body.1").eval()
    model.train()
    part(model, "head").eval()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    seen: list[Tensor] = []
    part(model, "body.1").register_forward_hook(lambda _m, _i, out: seen.append(out.clone()))
    with torch.no_grad(), batch_statistics(model):
        assert not part(model, "body").training
        model(x)
    norm = part(model, "body.1")
    plain = (seen[0] - norm.bias[:, None, None]) / norm.weight[:, None, None]
    assert torch.allclose(plain.mean((0, 2, 3)), torch.zeros(8), atol=1e-5)
    assert torch.allclose(plain.var((0, 2, 3), unbiased=False), torch.ones(8), atol=1e-3)
    assert [m.training for m in model.modules()] == modes
    assert all(norm.track_running_stats for norm in norms(model))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_batch_statistics_are_undone_after_an_error() -> None:
    model = settled(Chain())
    with pytest.raises(RuntimeError, match="stop"), batch_statistics(model):
        raise RuntimeError("stop")
    assert all(norm.track_running_stats and not norm.training for norm in norms(model))


def test_recalibration_is_the_plain_average_over_the_batches() -> None:
    model = settled(Chain(1))
    batches = [images(4, *SHAPE, seed=seed) * (seed + 1) + seed for seed in range(5)]
    inputs: list[Tensor] = []
    handle = part(model, "body.1").register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach()))
    recalibrate(model, batches)
    handle.remove()
    (norm,) = norms(model)
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    assert torch.allclose(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0), rtol=1e-4)
    assert (norm.num_batches_tracked.item(), norm.momentum) == (5, 0.1)


def test_recalibration_does_not_depend_on_what_stood_there() -> None:
    one, two = settled(Chain()), settled(Chain())
    for norm in norms(two):
        assert norm.running_mean is not None
        norm.running_mean.add_(5)
    for model in (one, two):
        recalibrate(model, [images(4, *SHAPE, seed=seed) for seed in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_recalibration_restores_modes_and_touches_only_norms() -> None:
    model = settled(Chain()).train()
    part(model, "body.1").eval()
    modes, state = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    recalibrate(model, [images(4, *SHAPE)])
    assert [m.training for m in model.modules()] == modes
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, state[key])}
    assert changed == {f"body.{n}.{k}" for n in (1, 4) for k in ("running_mean", "running_var", "num_batches_tracked")}


def test_recalibration_without_batches_changes_nothing() -> None:
    model = settled(Chain())
    state = copy.deepcopy(model.state_dict())
    recalibrate(model, [])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_norms_of_operators_that_are_not_selected_keep_theirs() -> None:
    net = supernet(separate_norms=True).eval()
    net.set_vector((1, 2))
    state = copy.deepcopy(net.state_dict())
    recalibrate(net, [images(4, *SHAPE, seed=seed) for seed in range(2)])
    changed = {key.rsplit(".", 1)[0] for key, value in net.state_dict().items() if not torch.equal(value, state[key])}
    assert changed == {"graph_module.body.1.candidates.dwsep3x3", "graph_module.body.4.candidates.maxpool3x3"}


def test_a_lowered_network_ships_with_the_statistics_of_its_vector() -> None:
    traced, x = narfx.trace(settled(Chain()), input=SHAPE), images(4, *SHAPE)
    for separate in (False, True):
        net = Supernet(traced, separate_norms=separate).eval()
        net.set_vector((1, 2))
        recalibrate(net, [images(4, *SHAPE, seed=seed) for seed in range(3)])
        lowered = narfx.lower(net, (1, 2))
        assert "body.1.running_mean" in lowered.state_dict()
        assert not [key for key in lowered.state_dict() if "candidates" in key]
        with torch.no_grad():
            assert torch.equal(lowered(x), net(x))


def test_norms_without_statistics_are_left_alone() -> None:
    class Bare(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.body[1] = nn.BatchNorm2d(8, track_running_stats=False)

    model, x = settled(Bare()), images(4, *SHAPE)
    expected = model(x)
    with batch_statistics(model):
        model(x)
    assert torch.equal(model(x), expected)
    recalibrate(model, [x])
    assert part(model, "body.1").running_mean is None
