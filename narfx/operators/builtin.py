"""The built-in operators: how each is built, where it is legal, its cost, and its start from the base's weights.

A depthwise operator is a depthwise k×k convolution and a 1×1 convolution. A pooling operator is a 3×3 pool and a 1×1
convolution. The 1×1 convolution has the site's groups and bias. Neither has its own normalisation or activation,
because those of the site follow. With these definitions the costs in Tables 3 and 5 of the NAR paper (arXiv
1905.02341) are reproduced exactly.

An operator consists of plain ``torch.nn`` modules only, so a lowered network needs nothing of narfx. It returns a new
tensor, so an in-place activation after it cannot change what another branch reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from narfx.operators.geometry import conv_cost, padding_for, pointwise_cost, refuse_padding, total
from narfx.operators.record import Operator
from narfx.space.records import Site

__all__ = ["BUILT_IN"]

_GROUPS = 4


def _convolution(site: Site, kernel: int, groups: int) -> nn.Conv2d:
    """A convolution like the site's own, with another kernel or more groups."""
    return nn.Conv2d(
        site.in_channels,
        site.out_channels,
        kernel,
        stride=site.stride,
        padding=padding_for(site, kernel, site.dilation),
        dilation=site.dilation,
        groups=groups,
        bias=site.bias,
        padding_mode=site.padding_mode,
    )


def _pointwise(site: Site) -> nn.Conv2d:
    return nn.Conv2d(site.in_channels, site.out_channels, 1, groups=site.groups, bias=site.bias)


def _copy_bias(target: nn.Conv2d, conv: nn.Conv2d) -> None:
    if target.bias is not None and conv.bias is not None:
        target.bias.copy_(conv.bias)


def _embedded(weight: Tensor, kernel: int) -> Tensor:
    """A square kernel, zero-padded or cut to size ``kernel`` around its centre."""
    grow = kernel - weight.shape[-1]
    if grow == 0:
        return weight
    if grow > 0:
        return nn.functional.pad(weight, [grow // 2] * 4)
    cut = -grow // 2
    return weight[..., cut : weight.shape[-1] - cut, cut : weight.shape[-1] - cut]


def _start_conv(module: nn.Module, conv: nn.Conv2d) -> None:
    assert isinstance(module, nn.Conv2d)
    module.weight.copy_(_embedded(conv.weight, module.kernel_size[0]))
    _copy_bias(module, conv)


def _start_sum(module: nn.Module, conv: nn.Conv2d) -> None:
    """Set the 1×1 to the sum over the kernel's taps: exact where the feature map is constant under the kernel."""
    pointwise = module if isinstance(module, nn.Conv2d) else module.get_submodule("pointwise")
    assert isinstance(pointwise, nn.Conv2d)
    taps = conv.weight.flatten(2)
    pointwise.weight.copy_((taps @ taps.new_ones(taps.shape[2])).reshape_as(pointwise.weight))
    _copy_bias(pointwise, conv)


def _start_grouped(module: nn.Module, conv: nn.Conv2d) -> None:
    """Copy the diagonal blocks of the site's kernel: the weights between inputs and outputs of the same group."""
    assert isinstance(module, nn.Conv2d)
    outputs, inputs, *_ = conv.weight.shape
    parts = module.groups // conv.groups
    weight = _embedded(conv.weight, module.kernel_size[0])
    blocks = weight.reshape(conv.groups, parts, outputs // module.groups, parts, inputs // parts, *weight.shape[2:])
    module.weight.copy_(blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).reshape_as(module.weight))
    _copy_bias(module, conv)


def _start_depthwise(module: nn.Module, conv: nn.Conv2d) -> None:
    """Set the nearest separable kernel: for each input channel the best rank-1 factors of its (outputs × taps) matrix.

    W[o, i, :] ≈ pointwise[o, i] · depthwise[i, :], by singular value decomposition, channel by channel.
    """
    depthwise, pointwise = module.get_submodule("depthwise"), module.get_submodule("pointwise")
    assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
    outputs, inputs, *_ = conv.weight.shape
    weight = conv.weight if conv.weight.dtype == torch.float64 else conv.weight.float()
    kernel = depthwise.kernel_size[0]
    # Taps outside the site's kernel are zero, so only a smaller kernel must be cut first.
    weight = _embedded(weight, min(kernel, weight.shape[-1]))
    # Groups have different input channels, so the matrix of a channel has only the outputs of its group.
    matrices = weight.reshape(conv.groups, outputs // conv.groups, inputs, -1)
    by_channel = matrices.transpose(1, 2).reshape(conv.in_channels, outputs // conv.groups, -1)
    taps = _leading(by_channel.transpose(1, 2) @ by_channel)
    # The sign is free: make the sum of the taps positive. Divide the norm evenly between the two factors.
    taps = taps * torch.where(taps.sum(1, keepdim=True) < 0, -1.0, 1.0)
    mix = torch.einsum("goik,gik->goi", matrices, taps.reshape(conv.groups, inputs, -1))
    root = mix.norm(dim=1, keepdim=True).sqrt()
    depthwise.weight.copy_(_embedded((taps * root.reshape(-1, 1)).reshape(-1, 1, *weight.shape[2:]), kernel))
    pointwise.weight.copy_((mix / root.clamp_min(torch.finfo(mix.dtype).tiny)).reshape_as(pointwise.weight))
    _copy_bias(pointwise, conv)


def _leading(gram: Tensor) -> Tensor:
    """The leading eigenvector of each symmetric matrix of (channels, taps, taps), of length 1, or 0 for a zero matrix.

    Nine squarings give the 512th power of the matrix, in which the leading eigenvector dominates. This takes a fraction
    of the time of ``eigh``.
    """
    power, tiny = gram, torch.finfo(gram.dtype).tiny
    for _ in range(3):  # with trace 1, three squarings stay within the range of float32
        power = power / power.diagonal(dim1=1, dim2=2).sum(1).clamp_min(tiny)[:, None, None]
        for _ in range(3):
            power = power @ power
    largest = power.diagonal(dim1=1, dim2=2).argmax(1)
    vector: Tensor = power[torch.arange(len(power), device=power.device), :, largest]
    length: Tensor = vector.norm(dim=1, keepdim=True).clamp_min(tiny)
    return vector / length


def _depthwise_operator(kernel: int) -> Operator:
    def build(site: Site) -> nn.Module:
        depthwise = nn.Conv2d(
            site.in_channels,
            site.in_channels,
            kernel,
            stride=site.stride,
            padding=padding_for(site, kernel, site.dilation),
            dilation=site.dilation,
            groups=site.in_channels,
            bias=False,
            padding_mode=site.padding_mode,
        )
        return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=_pointwise(site)))

    def cost(site: Site) -> dict[str, float]:
        return total(
            conv_cost(site, kernel, site.in_channels, site.in_channels, site.in_channels, False), pointwise_cost(site)
        )

    return Operator(f"dwsep{kernel}x{kernel}", build, lambda site: refuse_padding(site, kernel), cost, _start_depthwise)


def _pool_operator(name: str, pool: Callable[..., nn.Module]) -> Operator:
    def refuse(site: Site) -> str | None:
        if site.padding_mode != "zeros":
            return f"pooling has no padding mode {site.padding_mode!r}"
        if any(not 0 <= padding <= 1 for padding in padding_for(site, 3, (1, 1))):
            return "a 3x3 pool cannot be padded to the output size of the site"
        return None

    def build(site: Site) -> nn.Module:
        # A dilated site is pooled without dilation: AvgPool2d has no dilation, and the output size is the same.
        pooled = pool(3, stride=site.stride, padding=padding_for(site, 3, (1, 1)))
        return nn.Sequential(OrderedDict(pool=pooled, pointwise=_pointwise(site)))

    return Operator(name, build, refuse, pointwise_cost, _start_sum)


def _conv_operator(kernel: int) -> Operator:
    def refuse(site: Site) -> str | None:
        if site.kernel == (kernel, kernel):
            return "it is the site's own convolution"
        return refuse_padding(site, kernel)

    def cost(site: Site) -> dict[str, float]:
        return conv_cost(site, kernel, site.in_channels, site.out_channels, site.groups, site.bias)

    return Operator(
        f"conv{kernel}x{kernel}",
        lambda site: _convolution(site, kernel, site.groups),
        refuse,
        cost,
        _start_conv if kernel > 1 else _start_sum,
    )


def _grouped_operator(kernel: int) -> Operator:
    """A convolution with ``_GROUPS`` groups inside each group of the site, so no channel leaves its group."""

    def refuse(site: Site) -> str | None:
        groups = _GROUPS * site.groups
        for side, channels in (("input", site.in_channels), ("output", site.out_channels)):
            if channels % groups:
                own = f" within each of the site's {site.groups}" if site.groups > 1 else ""
                return f"its {channels} {side} channels cannot be split into {_GROUPS} groups{own}"
        return refuse_padding(site, kernel)

    def cost(site: Site) -> dict[str, float]:
        return conv_cost(site, kernel, site.in_channels, site.out_channels, _GROUPS * site.groups, site.bias)

    return Operator(
        f"grouped{kernel}x{kernel}",
        lambda site: _convolution(site, kernel, _GROUPS * site.groups),
        refuse,
        cost,
        _start_grouped,
    )


def _identity_operator() -> Operator:
    def refuse(site: Site) -> str | None:
        if site.stride != (1, 1):
            return f"an identity cannot have the site's stride of {site.stride[0]}x{site.stride[1]}"
        if site.input_shape != site.output_shape:
            shapes = ["x".join(map(str, shape)) for shape in (site.input_shape, site.output_shape)]
            return f"an identity cannot turn {shapes[0]} into {shapes[1]}"
        return None

    # A 1×1 average is exact and gives a new tensor. nn.Identity returns its input, and an in-place activation after it
    # would change what a residual branch reads.
    return Operator(
        "identity", lambda site: nn.AvgPool2d(1), refuse, lambda site: {"params": 0, "macs": 0}, lambda *_: None
    )


BUILT_IN = (
    _depthwise_operator(3),
    _pool_operator("maxpool3x3", nn.MaxPool2d),
    # Zeros at the border count, as in the convolution that the pool replaces.
    _pool_operator("avgpool3x3", nn.AvgPool2d),
    _conv_operator(5),
    _depthwise_operator(5),
    _conv_operator(1),
    _conv_operator(3),
    _grouped_operator(3),
    _identity_operator(),
)
