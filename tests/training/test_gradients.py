"""Gradients of minibatches: agreement and variance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from narfx.errors import RunError
from narfx.training.gradients import agreement, gradient_of, gradient_variance


def objective(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(network(x), y)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def batch(seed: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 5, generator=generator), torch.randint(3, (size,), generator=generator)


def test_the_gradient_is_autograds_and_what_is_not_reached_is_zero() -> None:
    model = net()
    model.register_parameter("idle", nn.Parameter(torch.ones(4)))
    found = gradient_of(model, objective, batch(1))
    objective(model, *batch(1)).backward()
    expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    assert torch.equal(found, torch.cat([part.flatten() for part in expected]))


@given(st.integers(0, 500), st.integers(0, 500))
def test_agreement_is_symmetric_and_a_cosine(first: int, second: int) -> None:
    model = net()
    found = agreement(model, objective, batch(first), batch(second))
    assert found == pytest.approx(agreement(model, objective, batch(second), batch(first)))
    assert -1 - 1e-9 <= found.cosine <= 1 + 1e-9
    own = agreement(model, objective, batch(first), batch(first))
    assert own.cosine == pytest.approx(1) and own.inner > 0


def test_opposite_labels_conflict() -> None:
    model = nn.Linear(5, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    x = torch.randn(4, 5)
    zeros, ones = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    found = agreement(model, objective, (x, zeros), (x, ones))
    assert found.cosine == pytest.approx(-1) and found.inner < 0


def test_a_zero_gradient_has_no_direction_and_a_broken_one_is_an_error() -> None:
    model = net()
    nothing = agreement(model, lambda network, x, y: 0.0 * network(x).sum(), batch(1), batch(2))
    assert nothing == (0.0, 0.0)
    with pytest.raises(RunError, match="NaN or infinite"):
        agreement(model, lambda network, x, y: math.inf * network(x).sum(), batch(1), batch(2))


@given(st.integers(2, 5), st.integers(0, 100))
def test_the_variance_is_that_of_the_gradients(count: int, seed: int) -> None:
    model = net()
    held = [batch(seed + index) for index in range(count)]
    gradients = torch.stack([gradient_of(model, objective, each) for each in held]).double()
    expected = float(gradients.var(0, correction=0).mean())
    assert gradient_variance(model, objective, held) == pytest.approx(expected, rel=1e-9)
    assert gradient_variance(model, objective, held * 2) == pytest.approx(expected, rel=1e-9)
    assert gradient_variance(model, objective, held[:1] * 3) == 0
    with pytest.raises(ValueError, match="no batch"):
        gradient_variance(model, objective, [])
