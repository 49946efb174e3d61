"""LResNet-E-IR, the face networks of ArcFace (Deng et al., arXiv 1801.07698) that NAR refines (arXiv 1905.02341).

``L``: the stem keeps the full resolution, so that a 112x112 face leaves the last stage as a 7x7 map. ``E``: the output
is BatchNorm, dropout, a linear layer and BatchNorm. ``IR``: the units are improved-residual ones. Each of the four
stages halves the map in its first unit, the first stage too, where the shortcut is a 1x1 convolution with BatchNorm.
The number in a name counts the layers with weights on the main path: two a unit, the stem and the linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.models.options import check_counts, check_sizes

__all__ = ["ImprovedUnit", "LResNetIR", "lresnet10e_ir", "lresnet50e_ir", "lresnet_ir"]

_STAGES = 4


class ImprovedUnit(nn.Module):
    """BN, conv3x3, BN, PReLU, conv3x3 (with the stride), BN, and a residual add with nothing behind it."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        added: Tensor = self.bn3(self.conv2(out)) + (x if self.shortcut is None else self.shortcut(x))
        return added


class LResNetIR(nn.Module):
    """A 3x3 stem, four stages of :class:`ImprovedUnit`, and an embedding that is normalised over the batch.

    The arguments are those of :func:`lresnet_ir`, checked there.
    """

    def __init__(
        self, units: Sequence[int], width: int, embedding: int, size: int, in_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        stages, channels, side = [], width, size
        for index, depth in enumerate(units):
            out = width * 2**index
            stages.append(
                nn.Sequential(ImprovedUnit(channels, out, 2), *(ImprovedUnit(out, out) for _ in range(depth - 1)))
            )
            channels, side = out, (side + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels * side * side, embedding)
        self.bn3 = nn.BatchNorm1d(embedding)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as in He et al. 2015 (arXiv 1502.01852), fan out, from torch's global generator.

        That holds for the convolutions and for the linear layer, whose bias starts at 0. BatchNorm starts at the
        identity and PReLU at a slope of 0.25, as torch and that paper have it.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, size, size) to embeddings (N, embedding), which have no unit length yet."""
        x = self.stages(self.prelu(self.bn1(self.conv1(x))))
        embedded: Tensor = self.bn3(self.fc(torch.flatten(self.dropout(self.bn2(x)), 1)))
        return embedded


def lresnet_ir(
    units: Sequence[int] | str = (3, 4, 14, 3),
    width: int = 64,
    embedding: int = 512,
    size: int = 112,
    in_channels: int = 3,
    dropout: float = 0.4,
) -> LResNetIR:
    """The family of ArcFace's face networks, of any depth, width and image size.

    Args:
        units: Improved-residual units of the four stages: a sequence, or text such as ``"1-1-2-1"``.
        width: Channels of the stem and the first stage; the later ones have two, four and eight times as many.
        embedding: Length of the embedding.
        size: Height and width of the image; the linear layer is made for it.
        in_channels: Channels of the image.
        dropout: The share of the last map that is dropped in training, at least 0 and less than 1.

    Raises:
        UsageError: An option is none of that.
    """
    depths = check_counts("units", units, _STAGES, "3-4-14-3")
    check_sizes(width=width, embedding=embedding, size=size, in_channels=in_channels)
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise UsageError(
            f"dropout is a number from 0 to less than 1, not {dropout!r}", where="dropout", kind="model_arguments"
        )
    return LResNetIR(depths, width, embedding, size, in_channels, float(dropout))


def lresnet50e_ir(
    width: int = 64, embedding: int = 512, size: int = 112, in_channels: int = 3, dropout: float = 0.4
) -> LResNetIR:
    """LResNet50E-IR: 3-4-14-3 units, the baseline of NAR's tables 2 and 3 (arXiv 1905.02341)."""
    return lresnet_ir((3, 4, 14, 3), width, embedding, size, in_channels, dropout)


def lresnet10e_ir(
    width: int = 16, embedding: int = 128, size: int = 112, in_channels: int = 3, dropout: float = 0.4
) -> LResNetIR:
    """One unit a stage and a quarter of the width: small enough to train on a CPU."""
    return lresnet_ir((1, 1, 1, 1), width, embedding, size, in_channels, dropout)
