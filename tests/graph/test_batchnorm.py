"""Statistics of BatchNorm: of a batch, and recalibrated over batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from sample_networks import Chain, images, part, settled
from sample_supernets import SHAPE, supernet
from torch import Tensor, nn

import narfx
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import batch_statistics, recalibrate


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
