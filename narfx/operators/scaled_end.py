"""Scaling an operator's output by its last layer, which takes no pass over the output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from narfx.operators.weighted_sum import Weight

__all__ = ["is_altered", "scalable_end", "scaled_call"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def scalable_end(operator: nn.Module) -> nn.Module | None:
    """The convolution or BatchNorm that ends an operator: its output is linear in that layer's weight and bias.

    ``None`` where another layer ends it, where the layer stands in it twice, or where its call is altered.
    """
    last, wholes = operator, list[nn.Sequential]()
    while type(last) is nn.Sequential and len(last):
        wholes.append(last)
        last = last[-1]
    plain = type(last) is nn.Conv2d or (type(last) is nn.BatchNorm2d and (last.affine or last.running_mean is not None))
    if not plain or is_altered(*wholes, last):
        return None
    before = (part for whole in wholes for part in list(whole)[:-1])
    return None if any(inner is last for part in before for inner in part.modules()) else last


def is_altered(*layers: nn.Module) -> bool:
    """Whether a hook sees, or changes, a call of one of these layers, or the object has a ``forward`` of its own."""
    return any("forward" in vars(layer) or any(getattr(layer, name) for name in _HOOKS) for layer in layers)


def scaled_call(call: Callable[[], Tensor], end: nn.Module | None, weight: Weight) -> Tensor:
    """What a call gives while the weight and bias of ``end`` are multiplied by ``weight``; plain without an ``end``.

    Gradients flow through the products to both factors.
    """
    if end is None:
        return call()
    kept = dict(end._parameters)
    try:
        end._parameters.update(_products(end, weight))  # type: ignore[arg-type]
        return call()
    finally:
        end._parameters.update(kept)


def _products(end: nn.Module, weight: Weight) -> dict[str, Tensor]:
    if isinstance(end, nn.BatchNorm2d) and not end.affine:
        mean = end.running_mean
        assert mean is not None
        return {"weight": torch.ones_like(mean) * weight, "bias": torch.zeros_like(mean)}
    return {name: value * weight for name, value in end._parameters.items() if value is not None}
