"""Residual networks for small images (He et al. 2016, arXiv 1512.03385, section 4.2 and its ImageNet form).

Every network has a 3x3 stem at full resolution, stages of basic blocks (two 3x3 convolutions and an add), global
average pooling and one linear layer. The first block of each later stage halves the map. If shapes differ, the
shortcut is a 1x1 convolution with BatchNorm (option B of the paper), otherwise the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from narfx.errors import UsageError

__all__ = [
    "BasicBlock",
    "SmallResNet",
    "resnet8",
    "resnet18_cifar",
    "resnet20",
    "resnet20_wide",
    "resnet_cifar",
    "resnet_digits",
]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a residual add; the last ReLU follows the add."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + (x if self.shortcut is None else self.shortcut(x))
        activated: Tensor = self.relu(out)
        return activated


class SmallResNet(nn.Module):
    """A 3x3 stem, one stage of basic blocks for each entry of ``channels``, pooling and a linear layer.

    Raises:
        UsageError: A number of channels or classes is not a positive integer.
    """

    def __init__(self, blocks: Sequence[int], channels: Sequence[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        sizes = (in_channels, *channels, num_classes)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise UsageError(
                f"channels and classes must be positive integers, not {', '.join(map(repr, sizes))}",
                kind="model_arguments",
            )
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        stages, width = [], channels[0]
        for index, (depth, out) in enumerate(zip(blocks, channels, strict=True)):
            first = BasicBlock(width, out, stride=1 if index == 0 else 2)
            stages.append(nn.Sequential(first, *(BasicBlock(out, out) for _ in range(depth - 1))))
            width = out
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise convolutions as in He et al. 2015 (arXiv 1502.01852), fan out; BatchNorm starts as identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.stages(self.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def resnet_cifar(
    depth: int = 20,
    width: int = 16,
    channels: Sequence[int] | None = None,
    num_classes: int = 10,
    in_channels: int = 3,
) -> SmallResNet:
    """The CIFAR form: three stages of n blocks each, ``depth`` = 6n + 2.

    Args:
        depth: Layers with weights on the main path: 8, 14, 20, 26, 32, ...
        width: Channels of the first stage; the next two have two and four times as many.
        channels: The channels of the three stages, instead of ``width``.
        num_classes: Length of the logits.
        in_channels: Channels of the image.

    Raises:
        UsageError: ``depth`` is not 6n + 2, or ``channels`` does not have three entries.
    """
    if depth < 8 or depth % 6 != 2:
        raise UsageError(
            f"depth must be 6n + 2 (8, 14, 20, 26, 32, ...), not {depth}", where="depth", kind="model_arguments"
        )
    stages = (width, 2 * width, 4 * width) if channels is None else tuple(channels)
    if len(stages) != 3:
        raise UsageError(
            f"channels must be three counts, one for each stage, for example (16, 32, 64), not {stages}",
            where="channels",
            kind="model_arguments",
        )
    return SmallResNet([(depth - 2) // 6] * 3, stages, num_classes, in_channels)


def resnet8(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> SmallResNet:
    """Three blocks: small enough to train on a CPU."""
    return resnet_cifar(8, width, num_classes=num_classes, in_channels=in_channels)


def resnet20(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> SmallResNet:
    """ResNet-20 with 16-32-64 channels (He et al. 2016, table 6)."""
    return resnet_cifar(20, width, num_classes=num_classes, in_channels=in_channels)


def resnet20_wide(num_classes: int = 10, in_channels: int = 3) -> SmallResNet:
    """ResNet-20 with 64-128-256 channels: the CIFAR-10 baseline of NAR's table 1 (arXiv 1905.02341)."""
    return resnet_cifar(20, channels=(64, 128, 256), num_classes=num_classes, in_channels=in_channels)


def resnet18_cifar(num_classes: int = 10, in_channels: int = 3) -> SmallResNet:
    """ResNet-18 for 32x32 images: a 3x3 stem of stride 1, no max pooling, four stages of 64 to 512 channels."""
    return SmallResNet((2, 2, 2, 2), (64, 128, 256, 512), num_classes, in_channels)


def resnet_digits(num_classes: int = 10, in_channels: int = 1, width: int = 16) -> SmallResNet:
    """ResNet-14 for 8x8 digits: maps of 8x8, 4x4 and 2x2; twelve 3x3 convolutions and the stem."""
    return SmallResNet((2, 2, 2), (width, 2 * width, 4 * width), num_classes, in_channels)
