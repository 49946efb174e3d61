"""The weighted sum of a mixture's outputs, with fewer passes over memory than products and sums one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Weight", "weighted_sum"]

Weight: TypeAlias = Tensor | float
"""The weight of a choice in a mixture: a number, or a tensor without axes, to which gradients flow."""


def weighted_sum(weights: Sequence[Weight], outputs: Iterable[Tensor]) -> Tensor:
    """The sum of w·x over outputs x of one shape; gradients of first order flow to outputs and to tensors of weights.

    Without gradients each output is added and dropped before the next is asked for.
    """
    if not torch.is_grad_enabled():
        return _added(weights, outputs)
    total: Tensor = _WeightedSum.apply(len(weights), *weights, *outputs)
    return total


def _added(weights: Sequence[Weight], outputs: Iterable[Tensor]) -> Tensor:
    total: Tensor | None = None
    own = True
    for weight, output in zip(weights, outputs, strict=True):
        if total is None:
            own = not _is_one(weight)
            total = output * weight if own else output
        elif isinstance(weight, Tensor) and weight.device.type != "cpu":  # reading the number would wait for the device
            total, own = torch.addcmul(total, output, weight), True
        elif total.dtype == output.dtype:
            total = (total.add_ if own else total.add)(output, alpha=float(weight))
            own = True
        else:
            total, own = total + output * weight, True
    assert total is not None
    return total if own else total.clone()


def _is_one(weight: Weight) -> bool:
    return not isinstance(weight, Tensor) and weight == 1


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *values: Any) -> Tensor:
        weights, outputs = values[:count], values[count:]
        ctx.numbers = tuple(None if isinstance(weight, Tensor) else weight for weight in weights)
        ctx.types = tuple(output.dtype for output in outputs)
        learned = [pair for pair in zip(weights, outputs, strict=True) if isinstance(pair[0], Tensor)]
        ctx.save_for_backward(*(value for pair in learned for value in pair))
        return _added(weights, outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        count = len(ctx.numbers)
        asked = zip(*(ctx.needs_input_grad[start : start + count] for start in (1, count + 1)), strict=True)
        to_weights: list[Tensor | None] = []
        to_outputs: list[Tensor | None] = []
        for number, kind, (asks_weight, asks_output) in zip(ctx.numbers, ctx.types, asked, strict=True):
            weight, output = (next(saved), next(saved)) if number is None else (number, gradient)
            to_weights.append(_dot(gradient, output).to(weight) if asks_weight else None)
            part = gradient if _is_one(weight) or not asks_output else gradient * weight
            to_outputs.append(part.to(kind) if asks_output else None)
        return (None, *to_weights, *to_outputs)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The sum over all entries of a product; in one pass where both lie in memory in the same order without gaps."""
    if one.dtype != other.dtype or one.stride() != other.stride() or not _dense(one):
        return (one * other).sum()
    return torch.dot(one.as_strided((one.numel(),), (1,)), other.as_strided((other.numel(),), (1,)))


def _dense(tensor: Tensor) -> bool:
    """Whether the entries lie in memory without gaps, in whatever order of axes."""
    sizes = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    expected = 1
    for stride, size in sizes:
        if stride != expected:
            return False
        expected *= size
    return True
