"""LResNet-E-IR, the face networks of ArcFace (Deng et al., arXiv 1801.07698) that NAR refines (arXiv 1905.02341).

``L``: the stem keeps the full resolution, so a 112x112 face becomes a 7x7 map after the last stage. ``E``: the output
is BatchNorm, dropout, a linear layer and BatchNorm. ``IR``: improved-residual units. Each of the four stages halves the
map in its first unit, where the shortcut is a 1x1 convolution with BatchNorm. The number in a name counts the layers
with weights on the main path: two per unit, the stem and the linear layer.
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
    """BN, conv3x3, BN, PReLU, conv3x3 (with the stride), BN, and a residual add without activation."""

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
    """A 3x3 stem, four stages of :class:`ImprovedUnit`, and an embedding with a final BatchNorm.

    For the arguments see :func:`lresnet_ir`, which checks them.
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
        """Initialise the weights as in He et al. 2015 (arXiv 1502.01852), fan out, from torch's global generator.

        This applies to the convolutions and the linear layer, whose bias starts at 0. BatchNorm starts as the identity,
        and PReLU with slope 0.25, as in torch and in that paper.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, size, size) to embeddings (N, embedding), not normalised to unit length."""
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
    """ArcFace's face network with any depth, width and image size.

    Args:
        units: Improved-residual units of the four stages: a sequence, or text like ``"1-1-2-1"``.
        width: Channels of the stem and the first stage; later stages have two, four and eight times as many.
        embedding: Length of the embedding.
        size: Height and width of the image; the linear layer depends on it.
        in_channels: Channels of the image.
        dropout: The dropout rate of the last map, at least 0 and less than 1.

    Raises:
        UsageError: An argument is out of range.
    """
    depths = check_counts("units", units, _STAGES, "3-4-14-3")
    check_sizes(width=width, embedding=embedding, size=size, in_channels=in_channels)
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise UsageError(
            f"dropout must be a number of at least 0 and less than 1, not {dropout!r}",
            where="dropout",
            kind="model_arguments",
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
    """One unit per stage and a quarter of the width: small enough to train on a CPU."""
    return lresnet_ir((1, 1, 1, 1), width, embedding, size, in_channels, dropout)
