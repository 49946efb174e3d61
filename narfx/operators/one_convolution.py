"""Operators of a mixture that one convolution computes: convolutions, depthwise ones and average pools with a 1x1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from narfx.operators.scaled_end import is_altered
from narfx.operators.weighted_sum import Weight

__all__ = ["Linear", "as_linear", "convolved", "merged"]

Pair = tuple[int, int]

_IMAGES = 256
"""A kernel of more numbers than so many input images have is not put together: that would take longer than it saves.

Measured with 16 and 64 images a batch (tools/bench.py). Only the size of one image counts, so that the batch size never
changes how a result is computed.
"""


@dataclass(frozen=True)
class Linear:
    """A convolution with zero padding, alone or as the 1x1 after a depthwise convolution or an average pool."""

    last: nn.Conv2d
    first: nn.Conv2d | nn.AvgPool2d | None = None

    @property
    def geometry(self) -> tuple[Pair, Pair, Pair, Pair]:
        """The kernel's size, stride, padding and dilation, each (height, width)."""
        spatial = self.first or self.last
        dilation = (1, 1) if isinstance(spatial, nn.AvgPool2d) else spatial.dilation
        size, stride, padding = map(_pair, (spatial.kernel_size, spatial.stride, spatial.padding))
        return size, stride, padding, _pair(dilation)

    def takes(self, x: Tensor) -> bool:
        """Whether it maps images (N, C, H, W) of so many channels."""
        first = self.first.in_channels if isinstance(self.first, nn.Conv2d) else self.last.in_channels
        return x.shape[1] == first == self.last.in_channels

    def fits(self, host: Linear) -> bool:
        """Whether the host's convolution, with other weights, computes this one."""
        layers = [layer for layer in (self.last, self.first) if isinstance(layer, nn.Conv2d)]
        there = host.last.weight
        if any(layer.weight.dtype != there.dtype or layer.weight.device != there.device for layer in layers):
            return False
        if self.last.groups != host.last.groups:
            return False
        return all(map(_fits, zip(*self.geometry, strict=True), zip(*host.geometry, strict=True)))

    def kernel(self, weight: Weight) -> Tensor:
        """The kernel, (outputs, inputs of a group, height, width), times ``weight``; gradients flow to all factors."""
        scaled = self.last.weight * weight
        if self.first is None:
            return scaled
        outputs, inputs, groups = *scaled.shape[:2], self.last.groups
        size = self.geometry[0]
        if isinstance(self.first, nn.AvgPool2d):
            return (scaled / (size[0] * size[1])).expand(outputs, inputs, *size)
        taps = self.first.weight.reshape(groups, 1, inputs, *size)
        return (scaled.reshape(groups, -1, inputs, 1, 1) * taps).reshape(outputs, inputs, *size)


def as_linear(operator: nn.Module) -> Linear | None:
    """An operator as a convolution; ``None`` where it is none, or where its call is altered (``is_altered``)."""
    parts = [operator]
    if type(operator) is nn.Sequential:
        parts += operator
    last = parts[-1]
    if type(last) is not nn.Conv2d or last.padding_mode != "zeros" or isinstance(last.padding, str):
        return None
    if is_altered(*parts):
        return None
    if len(parts) <= 2:
        return Linear(last)
    if len(parts) > 3 or (last.kernel_size, last.stride, last.padding) != ((1, 1), (1, 1), (0, 0)):
        return None
    first = parts[1]
    if type(first) is nn.AvgPool2d:  # zeros of the border have to count as they do in a convolution
        return Linear(last, first) if _is_plain(first) else None
    return Linear(last, first) if type(first) is nn.Conv2d and _is_depthwise(first) else None


def _is_plain(pool: nn.AvgPool2d) -> bool:
    return pool.count_include_pad and not pool.ceil_mode and pool.divisor_override is None


def _is_depthwise(conv: nn.Conv2d) -> bool:
    alone = conv.groups == conv.in_channels == conv.out_channels
    return alone and conv.bias is None and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def merged(operators: Sequence[nn.Module], x: Tensor) -> dict[int, Linear]:
    """Those of a mixture's operators that one convolution computes for ``x``, by index; the first computes them.

    That is the operator with the largest kernel among the convolutions that mix channels. The result is empty without
    one, and where its kernel is large and the images are small: nothing would be gained.
    """
    found = ((index, as_linear(operator)) for index, operator in enumerate(operators))
    linear = {index: part for index, part in found if part is not None and part.takes(x)}
    dense = [index for index, part in linear.items() if part.first is None]
    if not dense:
        return {}
    host = max(dense, key=lambda index: math.prod(linear[index].last.kernel_size))
    if linear[host].last.weight.numel() > _IMAGES * math.prod(x.shape[1:]):
        return {}
    inside = {index: part for index, part in linear.items() if index != host and part.fits(linear[host])}
    return {host: linear[host], **inside} if inside else {}


def convolved(parts: Sequence[Linear], weights: Sequence[Weight], x: Tensor) -> Tensor:
    """The weighted sum of what the parts make of ``x``, by the first part's convolution with a kernel of all.

    A kernel, W = Σ w·W', has as many passes over weights as there are parts, in place of passes over images.
    """
    host = parts[0]
    (height, width), stride, padding, dilation = host.geometry
    kernels, biases = list[Tensor](), list[Tensor]()
    for part, weight in zip(parts, weights, strict=True):
        kernel = part.kernel(weight)
        rows, columns = (height - kernel.shape[2]) // 2, (width - kernel.shape[3]) // 2
        kernels.append(pad(kernel, (columns, columns, rows, rows)) if rows or columns else kernel)
        if part.last.bias is not None:
            biases.append(part.last.bias * weight)
    bias = sum(biases[1:], biases[0]) if biases else None
    return conv2d(x, sum(kernels[1:], kernels[0]), bias, stride, padding, dilation, host.last.groups)


def _fits(own: tuple[int, ...], host: tuple[int, ...]) -> bool:
    """Whether, along an axis, taps of (size, stride, padding, dilation) lie on taps of the host's, centre on centre."""
    (size, stride, padding, dilation), (room, steps, border, apart) = own, host
    spread = size == 1 or dilation == apart
    centred = (room - size) % 2 == 0 and 2 * (border - padding) == apart * (room - size)
    return stride == steps and spread and size <= room and centred


def _pair(value: str | int | tuple[int, ...]) -> Pair:
    assert not isinstance(value, str)
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
