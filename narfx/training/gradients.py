"""Gradients of single minibatches: how much they conflict, and how much they vary.

Two minibatches conflict where the inner product of their gradients is negative. Gradient confusion (Sankararaman et
al., arXiv 1904.06963) is the smallest eta of at least 0 with <g_i, g_j> >= -eta for all pairs. StacNAS
(arXiv 1909.11926) looks at the cosines of pairs instead, which do not depend on the length of the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from narfx.errors import RunError
from narfx.training.objective import Objective

__all__ = ["Agreement", "agreement", "gradient_of", "gradient_variance"]

Batch = tuple[Tensor, Tensor]


class Agreement(NamedTuple):
    """The inner product of the gradients of two minibatches, and its cosine (0 where a gradient is zero)."""

    inner: float
    cosine: float


def gradient_of(network: nn.Module, objective: Objective, batch: Batch) -> Tensor:
    """The gradient of the mean loss on one batch with respect to all weights that require one, as one vector (P,).

    Weights that the loss does not reach count with zeros. The network's mode is the caller's; no ``.grad`` is touched.
    """
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        loss = objective(network, *batch)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    parts = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    return torch.cat([part.flatten() for part in parts])


def agreement(network: nn.Module, objective: Objective, first: Batch, second: Batch) -> Agreement:
    """How far the gradients of two minibatches point the same way.

    Raises:
        RunError: A gradient is NaN or infinite.
    """
    one, other = (gradient_of(network, objective, batch).double() for batch in (first, second))
    inner, lengths = float(one @ other), float(one.norm() * other.norm())
    if not math.isfinite(inner) or not math.isfinite(lengths):
        raise RunError("a gradient became NaN or infinite: lower the learning rate (--lr)", kind="nan_loss")
    return Agreement(inner, inner / lengths if lengths > 0 else 0.0)


def gradient_variance(network: nn.Module, objective: Objective, batches: Iterable[Batch]) -> float:
    """The variance of the gradient over minibatches of equal size, averaged over the weights.

    It is mean_p(E_b[g_bp^2] - E_b[g_bp]^2), with the expectation over the given batches b and the mean over the
    weights p; sums are in float64. It may be NaN or infinite, where the loss is.
    """
    count, total, squares = 0, None, None
    for batch in batches:
        gradient = gradient_of(network, objective, batch).double()
        # Sums of deviations from the first gradient: sums of the gradients themselves would cancel.
        if total is None or squares is None:
            start, total, squares = gradient, torch.zeros_like(gradient), torch.zeros_like(gradient)
        gradient = gradient - start
        total += gradient
        squares += gradient**2
        count += 1
    if total is None or squares is None:
        raise ValueError("the variance of no batch")
    return float((squares / count - (total / count) ** 2).mean())
