"""The second-order gradient of DARTS: that of the validation loss after one step of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from narfx.search.mixture.unrolled import unrolled_gradient


class Problem:
    """Weights w, architecture α; losses that are smooth and couple both."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(1, generator=generator, dtype=torch.float64))
        self.alpha = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))
        self.mix = torch.randn(3, 4, generator=generator, dtype=torch.float64)

    def loss(self, w: Tensor, b: Tensor, alpha: Tensor, target: float) -> Tensor:
        return ((alpha.softmax(0) @ self.mix * w.tanh()).sum() + b.sum() * alpha[0] - target) ** 2 + 0.1 * (w**2).sum()

    def train_loss(self) -> Tensor:
        return self.loss(self.w, self.b, self.alpha, 1.0)

    def val_loss(self) -> Tensor:
        return self.loss(self.w, self.b, self.alpha, -0.5)


def after_a_step(problem: Problem, alpha: Tensor, optimizer: torch.optim.SGD) -> Tensor:
    """L_val(w − ξ d(α), α), through autograd's own second derivatives."""
    weights = [problem.w, problem.b]
    loss = problem.loss(problem.w, problem.b, alpha, 1.0)
    moved = []
    for parameter, gradient, group in zip(
        weights, torch.autograd.grad(loss, weights, create_graph=True), optimizer.param_groups, strict=True
    ):
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        step = gradient + group["weight_decay"] * parameter + (0 if buffer is None else group["momentum"] * buffer)
        moved.append(parameter - group["lr"] * step)
    return problem.loss(moved[0], moved[1], alpha, -0.5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_the_gradient_after_a_step_of_the_weights(seed: int, momentum: float) -> None:
    problem = Problem(seed)
    groups = [{"params": [problem.w], "lr": 0.1}, {"params": [problem.b], "lr": 0.03}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=momentum, weight_decay=3e-2)
    for _ in range(2):  # so that there is a momentum
        optimizer.zero_grad()
        problem.train_loss().backward()
        optimizer.step()
    before = [p.detach().clone() for p in (problem.w, problem.b, problem.alpha)]
    found, loss = unrolled_gradient(problem.alpha, problem.train_loss, problem.val_loss, optimizer)
    assert all(torch.equal(old, new) for old, new in zip(before, (problem.w, problem.b, problem.alpha), strict=True))
    alpha = problem.alpha.detach().clone().requires_grad_()
    expected = after_a_step(problem, alpha, optimizer)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-9)
    (exact,) = torch.autograd.grad(expected, alpha)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5)
    # Numerically too, by central differences in α.
    for k in range(3):
        sides = []
        for sign in (1, -1):
            shifted = problem.alpha.detach().clone()
            shifted[k] += sign * 1e-5
            sides.append(float(after_a_step(problem, shifted, optimizer).detach()))
        assert float(found[k]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=2e-3, abs=1e-5)
    # And it is not the first order alone.
    (first,) = torch.autograd.grad(problem.val_loss(), problem.alpha)
    assert not torch.allclose(found, first, rtol=1e-2)
