"""The second-order gradient of DARTS (arXiv 1806.09055, equations 7 and 8).

The validation loss is taken at the weights that one training step would give, w' = w − ξ d, with d the gradient of the
training loss plus what the optimizer adds to it (weight decay, momentum), as in the program of DARTS:

    ∇α L_val(w', α) − ξ · ∇²(α, w) L_train(w, α) ∇w' L_val(w', α).

The product of the matrix of second derivatives with the vector v = ∇w' L_val is a finite difference (equation 8),

    (∇α L_train(w + ε v, α) − ∇α L_train(w − ε v, α)) / 2ε,  ε = 0.01 / ‖v‖.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["unrolled_gradient"]

_EPSILON = 0.01

Loss = Callable[[], Tensor]


def unrolled_gradient(
    architecture: Tensor, train_loss: Loss, val_loss: Loss, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, float]:
    """The gradient for the ``architecture`` and the validation loss at w'; weights and optimizer stay as they are.

    Args:
        architecture: α, of which both losses are functions.
        train_loss: Computes L_train at the present weights and α, with a new graph at each call.
        val_loss: The same for L_val.
        optimizer: That of the weights w; the learning rate of each group is its ξ.
    """
    weights = [(p, group) for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    parameters = [parameter for parameter, _ in weights]
    rates = [float(group["lr"]) for _, group in weights]
    found = torch.autograd.grad(train_loss(), parameters, allow_unused=True)
    steps = [
        None if gradient is None else _direction(parameter, gradient, group, optimizer)
        for (parameter, group), gradient in zip(weights, found, strict=True)
    ]
    with _moved(parameters, [None if s is None else -rate * s for rate, s in zip(rates, steps, strict=True)]):
        loss = val_loss()
        first, *rest = torch.autograd.grad(loss, [architecture, *parameters], allow_unused=True)
    first = torch.zeros_like(architecture) if first is None else first
    # With ξ inside of the vector, groups of different learning rates need no case of their own.
    vector = [None if v is None else rate * v for rate, v in zip(rates, rest, strict=True)]
    size = float(torch.stack([v.norm().double() for v in vector if v is not None] or [torch.zeros(())]).norm())
    if not size:
        return first, float(loss.detach())
    epsilon = _EPSILON / size
    sides = []
    for sign in (1.0, -1.0):
        with _moved(parameters, [None if v is None else sign * epsilon * v for v in vector]):
            (side,) = torch.autograd.grad(train_loss(), [architecture], allow_unused=True)
            sides.append(torch.zeros_like(architecture) if side is None else side)
    return first - (sides[0] - sides[1]) / (2 * epsilon), float(loss.detach())


def _direction(
    parameter: nn.Parameter, gradient: Tensor, group: dict[str, object], optimizer: torch.optim.Optimizer
) -> Tensor:
    """What a step of SGD takes from a weight, over the learning rate."""
    step = gradient.detach()
    decay, momentum = group.get("weight_decay", 0), group.get("momentum", 0)
    if isinstance(decay, (int, float)) and decay:
        step = step + decay * parameter.detach()
    buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
    if isinstance(momentum, (int, float)) and momentum and isinstance(buffer, Tensor):
        step = step + momentum * buffer
    return step


@contextmanager
def _moved(parameters: Sequence[nn.Parameter], by: Sequence[Tensor | None]) -> Iterator[None]:
    """The parameters moved inside the context, and bit for bit as they were after it."""
    kept = [
        parameter.detach().clone() if step is not None else None for parameter, step in zip(parameters, by, strict=True)
    ]
    try:
        with torch.no_grad():
            for parameter, step in zip(parameters, by, strict=True):
                if step is not None:
                    parameter.add_(step)
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=True):
                if old is not None:
                    parameter.copy_(old)
