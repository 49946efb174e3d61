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
    for weight, output in zip(weights, outputs, strict=True):
        if total is None:
            total = output * weight
        elif isinstance(weight, Tensor) and weight.device.type != "cpu":  # reading the number would wait for the device
            total = torch.addcmul(total, output, weight)
        elif total.dtype == output.dtype:
            total.add_(output, alpha=float(weight))
        else:
            total = total + output * weight
    assert total is not None
    return total


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *values: Any) -> Tensor:
        weights, outputs = values[:count], values[count:]
        ctx.numbers = tuple(None if isinstance(weight, Tensor) else weight for weight in weights)
        ctx.save_for_backward(*(weight for weight in weights if isinstance(weight, Tensor)), *outputs)
        return _added(weights, outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        weights = [next(saved) if number is None else number for number in ctx.numbers]
        outputs = list(saved)
        count = len(weights)
        asked_weights, asked_outputs = ctx.needs_input_grad[1 : count + 1], ctx.needs_input_grad[count + 1 :]
        pairs = zip(weights, outputs, asked_weights, strict=True)
        to_weights = [_dot(gradient, output).to(weight) if asked else None for weight, output, asked in pairs]
        triples = zip(weights, outputs, asked_outputs, strict=True)
        to_outputs = [(gradient * weight).to(output.dtype) if asked else None for weight, output, asked in triples]
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
