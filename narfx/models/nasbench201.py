"""The network of NAS-Bench-201 (Dong and Yang, arXiv 2001.00326): one cell of 6 edges, 5 operators an edge.

A 3x3 stem, three stages of equal cells, and between the stages a residual block that halves the map and doubles the
channels. A cell has nodes 0 to 3; each is the sum of the edges from all nodes before it, and node 3 is the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from narfx.models.cell_edge import CellEdge, Fixed
from narfx.models.cell_operators import read_operators
from narfx.models.options import check_sizes

__all__ = ["NasBench201", "nasbench201"]

_NODES = 4


class DenseCell(nn.Module):
    """Nodes 0 to 3, with an edge between any two."""

    def __init__(self, channels: int, own: str, operators: Sequence[str]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                f"{source}_{node}": CellEdge(own, operators, channels, 1, f"cell {source}->{node}")
                for node in range(1, _NODES)
                for source in range(node)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        nodes = [x]
        for node in range(1, _NODES):
            total = self.edges[f"0_{node}"](nodes[0])
            for source in range(1, node):
                total = total + self.edges[f"{source}_{node}"](nodes[source])
            nodes.append(total)
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block of two 3x3 convolutions, the first of stride 2; its shortcut is a pool and a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv_a = _conv3x3(in_channels, channels, 2)
        self.conv_b = _conv3x3(channels, channels, 1)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(in_channels, channels, 1, bias=False))

    def narfx_candidates(self) -> dict[str, None]:
        """It is no part of the space."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / 2, W / 2)."""
        reduced: Tensor = self.conv_b(self.conv_a(x)) + self.shortcut(x)
        return reduced


def _conv3x3(in_channels: int, channels: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels))


class NasBench201(nn.Module):
    """The whole network; see the module."""

    def __init__(
        self, cells: int, channels: int, own: str, operators: Sequence[str], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        check_sizes(cells=cells, channels=channels, num_classes=num_classes, in_channels=in_channels)
        self.stem = Fixed(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        layers: list[nn.Module] = []
        for stage in range(3):
            width = channels * 2**stage
            layers += [Reduction(width // 2, width)] if stage else []
            layers += [DenseCell(width, own, operators) for _ in range(cells)]
        self.cells = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.last(self.cells(self.stem(x)))), 1))
        return logits


def nasbench201(
    operators: str | Sequence[str] = "nasbench201",
    cells: int = 5,
    channels: int = 16,
    num_classes: int = 10,
    in_channels: int = 3,
) -> NasBench201:
    """The space of NAS-Bench-201 (arXiv 2001.00326): 6 edges of 5 operators, 15,625 networks; base: all conv3x3.

    Args:
        operators: A set or a list.
        cells: How many in each of the three stages.
        channels: Those of the first stage.
        num_classes: Length of the logits.
        in_channels: Channels of the image.

    Raises:
        UsageError: An argument is wrong.
    """
    offered = read_operators(operators)
    own = next((name for name in ("nor_conv_3x3", *offered) if name in offered and name != "none"), offered[0])
    return NasBench201(cells, channels, own, offered, num_classes, in_channels)
