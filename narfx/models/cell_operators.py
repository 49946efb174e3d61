"""The operators of cells: those of DARTS (arXiv 1806.09055), of NASNet, of NAS-Bench-201, and noise.

``sep_conv``: twice ReLU, depthwise k x k, 1x1, BatchNorm; the stride is in the first. ``dil_conv``: ReLU, depthwise
k x k with dilation 2, 1x1, BatchNorm. ``nor_conv``: ReLU, convolution, BatchNorm. ``skip_connect`` of stride 2 is a
factorized reduction: two 1x1 convolutions of stride 2 on maps that are one pixel apart. ``noise`` is standard normal
noise that does not depend on its input (S4 of Zela et al., arXiv 1909.09656).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.space.genotype import CELL_OPERATORS

__all__ = ["OPERATOR_SETS", "FactorizedReduce", "Noise", "build_cell_operator", "read_operators", "start_like"]

_DARTS = CELL_OPERATORS[:8]
_NAS_BENCH_201 = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

OPERATOR_SETS: dict[str, tuple[str, ...]] = {
    "darts": _DARTS,
    "s2": ("skip_connect", "sep_conv_3x3"),
    "s3": ("none", "skip_connect", "sep_conv_3x3"),
    "s4": ("noise", "sep_conv_3x3"),
    "nasbench201": _NAS_BENCH_201,
}
"""The operators of a space by its name, where every edge has the same."""


class FactorizedReduce(nn.Module):
    """Half the map's height and width by two strided 1x1 convolutions, one of them shifted by a pixel."""

    def __init__(self, in_channels: int, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(in_channels, channels - channels // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / 2, W / 2); H and W are even."""
        x = self.relu(x)
        reduced: Tensor = self.bn(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], 1))
        return reduced


class Noise(nn.Module):
    """Standard normal noise of the output's shape."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to noise (N, C, H / stride, W / stride)."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def read_operators(value: str | Sequence[str]) -> tuple[str, ...]:
    """A list of operators, or the name of a set.

    Raises:
        UsageError: A name is unknown, stands there twice, or nothing does but ``none``.
    """
    names = OPERATOR_SETS.get(value) if isinstance(value, str) else None
    if names is None:
        names = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
    unknown = next((name for name in names if name not in CELL_OPERATORS), None)
    if unknown is not None:
        raise UsageError(
            f"there is no operator {unknown!r} for cells: choose from {', '.join(CELL_OPERATORS)}, or a set of them "
            f"({', '.join(('s1', *OPERATOR_SETS))})",
            where="operators",
            kind="model_arguments",
        )
    if len(set(names)) != len(names) or set(names) <= {"none"}:
        raise UsageError(
            f"operators names each operator once, and one other than none, not {', '.join(names) or 'nothing'}",
            where="operators",
            kind="model_arguments",
        )
    return names


def build_cell_operator(
    name: str, channels: int, stride: int, *, affine: bool = True, pool_norm: bool = False, drop_path: float = 0.0
) -> nn.Module:
    """A new module that maps (N, channels, H, W) to (N, channels, H / stride, W / stride).

    Args:
        name: One of ``CELL_OPERATORS`` but ``none``.
        channels: Of the input and of the output.
        stride: 1 or 2.
        affine: Whether BatchNorms have a scale and a shift.
        pool_norm: Whether a pool is followed by a BatchNorm, as in DARTS's search network.
        drop_path: The probability with which training drops the output of a sample; an identity is never dropped.
    """
    layers = _layers(name, channels, stride, affine)
    if "pool" in name and pool_norm:
        layers.append(nn.BatchNorm2d(channels, affine=affine))
    if drop_path and not (name == "skip_connect" and stride == 1):
        # On four axes it takes the first for the channels: it drops whole samples, which is drop-path.
        layers.append(nn.Dropout3d(drop_path))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _layers(name: str, channels: int, stride: int, affine: bool) -> list[nn.Module]:
    if name == "noise":
        return [Noise(stride)]
    if name == "skip_connect":
        return [nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)]
    if name == "avg_pool_3x3":
        return [nn.AvgPool2d(3, stride, 1, count_include_pad=False)]
    if name == "max_pool_3x3":
        return [nn.MaxPool2d(3, stride, 1)]
    if name == "conv_7x1_1x7":
        return [
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        ]
    kernel = int(name[-1])
    if name.startswith("nor_conv"):
        conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, bias=False)
        return [nn.ReLU(), conv, nn.BatchNorm2d(channels, affine=affine)]
    if name.startswith("dil_conv"):
        return _separable(channels, kernel, stride, 2, affine)
    return _separable(channels, kernel, stride, 1, affine) + _separable(channels, kernel, 1, 1, affine)


def _separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def start_like(module: nn.Module, name: str, own: nn.Module, own_name: str) -> None:
    """Start an operator from another one of its family: the larger kernel computes what the smaller one does.

    A smaller kernel is the centre of a larger one. Operators of other families keep their random weights.
    """
    if name[:8] != own_name[:8] or "conv" not in name:
        return
    for mine, theirs in zip(module.modules(), own.modules(), strict=True):
        if isinstance(mine, nn.Conv2d) and isinstance(theirs, nn.Conv2d):
            _copy_centre(mine.weight, theirs.weight)
        elif isinstance(mine, nn.BatchNorm2d):
            mine.load_state_dict(theirs.state_dict())


def _copy_centre(target: Tensor, source: Tensor) -> None:
    grow = (target.shape[-1] - source.shape[-1]) // 2
    if grow < 0:
        target.copy_(source[..., -grow:grow, -grow:grow])
    else:
        target.zero_()
        target[..., grow : target.shape[-1] - grow, grow : target.shape[-1] - grow].copy_(source)
