"""The operators that may stand at a site: how each is built, where it is legal, what it costs, how it starts.

Index 0 of every list is ``base``, the site's own convolution, untouched. A depthwise operator is a depthwise k×k
convolution and a 1×1 convolution; a pooling operator is a 3×3 pool and a 1×1 convolution. The 1×1 keeps the site's
groups and carries its bias, and neither has a normalisation or activation of its own, because the site's follows.
With these the tables of the NAR paper (arXiv 1905.02341, Tables 3 and 5) come out by arithmetic.

A candidate is made of plain ``torch.nn`` modules only, so that a lowered network holds nothing of narfx.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.space import Site

__all__ = ["Operator", "get_operator", "operator_cost", "operator_names", "register_operator"]


@dataclass(frozen=True)
class Operator:
    """One entry of the registry.

    ``build(site)`` makes a module that maps the site's input shape to its output shape; ``refuse(site)`` gives the
    reason why it may not stand there, or ``None``; ``cost(site)`` its parameters and the MACs of one sample;
    ``start(module, conv)`` sets its weights from the base convolution.
    """

    name: str
    build: Callable[[Site], nn.Module]
    refuse: Callable[[Site], str | None]
    cost: Callable[[Site], dict[str, float]]
    start: Callable[[nn.Module, nn.Conv2d], None]


_REGISTRY: dict[str, Operator] = {}


def register_operator(operator: Operator) -> None:
    """Make an operator known under its name.

    Raises:
        UsageError: The name is taken or is not a Python identifier.
    """
    if not operator.name.isidentifier():
        raise UsageError(f"an operator's name must be an identifier, not {operator.name!r}", kind="operator_name")
    if operator.name in _REGISTRY or operator.name == "base":
        raise UsageError(f"there is an operator {operator.name!r} already", kind="operator_name")
    _REGISTRY[operator.name] = operator


def operator_names() -> tuple[str, ...]:
    """All names that may stand in a list of operators."""
    return ("base", *_REGISTRY)


def get_operator(name: str) -> Operator:
    """The operator of that name; ``UsageError`` naming the choices if there is none."""
    if name not in _REGISTRY:
        raise UsageError(
            f"unknown operator {name!r}: there are {', '.join(operator_names())}",
            where="operators",
            kind="unknown_operator",
        )
    return _REGISTRY[name]


def operator_cost(site: Site, name: str) -> dict[str, float]:
    """Parameters and MACs of one sample with this operator (or ``base``) at the site."""
    if name != "base":
        return get_operator(name).cost(site)
    return _conv_cost(site, site.kernel[0], site.in_channels, site.out_channels, site.groups, site.bias)


def _conv_cost(
    site: Site, kernel: int, in_channels: int, out_channels: int, groups: int, bias: bool
) -> dict[str, float]:
    """Parameters and MACs of a convolution that gives the site's output map."""
    weights = kernel * kernel * (in_channels // groups) * out_channels
    _, height, width = site.output_shape
    return {"params": weights + (out_channels if bias else 0), "macs": weights * height * width}


def _sum(*costs: dict[str, float]) -> dict[str, float]:
    return {metric: sum(cost[metric] for cost in costs) for metric in costs[0]}


def _padding_for(site: Site, kernel: int, dilation: tuple[int, int]) -> tuple[int, int]:
    """The padding with which a ``kernel`` gives the site's own output size."""
    grown = [d * (kernel - 1) - sd * (k - 1) for d, sd, k in zip(dilation, site.dilation, site.kernel, strict=True)]
    return (site.padding[0] + grown[0] // 2, site.padding[1] + grown[1] // 2)


def _refuse_padding(site: Site, kernel: int) -> str | None:
    needed = _padding_for(site, kernel, site.dilation)
    if any(padding < 0 for padding in needed):
        return f"no padding gives a {kernel}x{kernel} kernel the output size of the site"
    room = [size - padding for size, padding in zip(site.input_shape[1:], needed, strict=True)]
    if site.padding_mode == "reflect" and min(room) <= 0:
        return "reflection needs a map larger than its padding"
    if site.padding_mode == "circular" and min(room) < 0:
        return "circular padding needs a map at least as large as itself"
    return None


def _pointwise(site: Site) -> nn.Conv2d:
    return nn.Conv2d(site.in_channels, site.out_channels, 1, groups=site.groups, bias=site.bias)


def _pointwise_cost(site: Site) -> dict[str, float]:
    return _conv_cost(site, 1, site.in_channels, site.out_channels, site.groups, site.bias)


def _copy_bias(target: nn.Conv2d, conv: nn.Conv2d) -> None:
    if target.bias is not None and conv.bias is not None:
        target.bias.copy_(conv.bias)


def _embedded(weight: Tensor, kernel: int) -> Tensor:
    """A kernel set into the middle of a larger one, or the middle of a larger one; the taps keep their places."""
    grow = kernel - weight.shape[-1]
    if grow >= 0:
        return nn.functional.pad(weight, [grow // 2] * 4)
    cut = -grow // 2
    return weight[..., cut : weight.shape[-1] - cut, cut : weight.shape[-1] - cut]


def _start_conv(module: nn.Module, conv: nn.Conv2d) -> None:
    assert isinstance(module, nn.Conv2d)
    with torch.no_grad():
        module.weight.copy_(_embedded(conv.weight, module.kernel_size[0]))
        _copy_bias(module, conv)


def _start_depthwise(module: nn.Module, conv: nn.Conv2d) -> None:
    """The nearest separable kernel: for each input channel the best rank-1 factors of its (outputs × taps) matrix.

    W[o, i, :] ≈ pointwise[o, i] · depthwise[i, :], by singular value decomposition, channel by channel.
    """
    depthwise, pointwise = module.get_submodule("depthwise"), module.get_submodule("pointwise")
    assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
    with torch.no_grad():
        outputs, inputs, *_ = conv.weight.shape
        kernel = depthwise.kernel_size[0]
        # Group by group the input channels differ, so the matrix of channel i holds only its group's outputs.
        weight = _embedded(conv.weight, kernel).reshape(conv.groups, outputs // conv.groups, inputs, -1)
        matrix = weight.transpose(1, 2).reshape(conv.in_channels, outputs // conv.groups, -1)
        matrix = matrix.double()
        # The first right singular vector, by the small (taps × taps) Gram matrix: ten times faster than the whole SVD.
        taps = torch.linalg.eigh(matrix.transpose(1, 2) @ matrix).eigenvectors[:, :, -1]
        # Its sign is free: let the taps sum to a positive number; and share the size evenly between the two factors.
        taps = taps * torch.where(taps.sum(1, keepdim=True) < 0, -1.0, 1.0)
        mix = (matrix @ taps[:, :, None])[:, :, 0]
        root = mix.norm(dim=1, keepdim=True).sqrt()
        taps, mix = taps * root, mix / root.clamp_min(torch.finfo(torch.float64).tiny)
        mix = mix.reshape(conv.groups, inputs, -1).transpose(1, 2)
        depthwise.weight.copy_(taps.reshape_as(depthwise.weight))
        pointwise.weight.copy_(mix.reshape_as(pointwise.weight))
        _copy_bias(pointwise, conv)


def _start_pool(module: nn.Module, conv: nn.Conv2d) -> None:
    """The 1×1 takes the sum over the taps: exact where the map is constant under the kernel."""
    pointwise = module.get_submodule("pointwise")
    assert isinstance(pointwise, nn.Conv2d)
    with torch.no_grad():
        pointwise.weight.copy_(conv.weight.sum((2, 3), keepdim=True))
        _copy_bias(pointwise, conv)


def _depthwise_operator(kernel: int) -> Operator:
    def build(site: Site) -> nn.Module:
        depthwise = nn.Conv2d(
            site.in_channels,
            site.in_channels,
            kernel,
            stride=site.stride,
            padding=_padding_for(site, kernel, site.dilation),
            dilation=site.dilation,
            groups=site.in_channels,
            bias=False,
            padding_mode=site.padding_mode,
        )
        return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=_pointwise(site)))

    def cost(site: Site) -> dict[str, float]:
        return _sum(
            _conv_cost(site, kernel, site.in_channels, site.in_channels, site.in_channels, False), _pointwise_cost(site)
        )

    return Operator(
        f"dwsep{kernel}x{kernel}", build, lambda site: _refuse_padding(site, kernel), cost, _start_depthwise
    )


def _pool_operator(name: str, pool: Callable[..., nn.Module]) -> Operator:
    def refuse(site: Site) -> str | None:
        if site.padding_mode != "zeros":
            return f"pooling has no padding mode {site.padding_mode!r}"
        if any(not 0 <= padding <= 1 for padding in _padding_for(site, 3, (1, 1))):
            return "a 3x3 pool cannot be padded to the output size of the site"
        return None

    def build(site: Site) -> nn.Module:
        # A dilated site is pooled without dilation: AvgPool2d has none, and the output size is the same.
        pooled = pool(3, stride=site.stride, padding=_padding_for(site, 3, (1, 1)))
        return nn.Sequential(OrderedDict(pool=pooled, pointwise=_pointwise(site)))

    return Operator(name, build, refuse, _pointwise_cost, _start_pool)


def _conv_operator(kernel: int) -> Operator:
    def build(site: Site) -> nn.Module:
        return nn.Conv2d(
            site.in_channels,
            site.out_channels,
            kernel,
            stride=site.stride,
            padding=_padding_for(site, kernel, site.dilation),
            dilation=site.dilation,
            groups=site.groups,
            bias=site.bias,
            padding_mode=site.padding_mode,
        )

    def cost(site: Site) -> dict[str, float]:
        return _conv_cost(site, kernel, site.in_channels, site.out_channels, site.groups, site.bias)

    return Operator(f"conv{kernel}x{kernel}", build, lambda site: _refuse_padding(site, kernel), cost, _start_conv)


for _operator in (
    _depthwise_operator(3),
    _pool_operator("maxpool3x3", nn.MaxPool2d),
    # Zeros at the border count, as they do for the convolution that the pool stands in for.
    _pool_operator("avgpool3x3", nn.AvgPool2d),
    _conv_operator(5),
    _depthwise_operator(5),
):
    register_operator(_operator)
