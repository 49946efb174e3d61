"""A plain chain of convolutions: the base of NAR's section 3.2 (arXiv 1905.02341) and of ENAS's macro space.

The stem, a 3x3 convolution with BatchNorm, is node 0. Nodes 1 to 12 are conv3x3, BatchNorm and ReLU, all with the same
width, as in the search of ENAS (Pham et al., arXiv 1802.03268). Nodes 5 and 9 have stride 2, so the map is halved after
nodes 4 and 8 and every node stays one convolution. The base has no skips. There are 6**12 ways to give each node one of
six operators, and 2**55 ways to add skips from node t >= 1 to node j, t <= j - 2.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.models.options import check_sizes

__all__ = ["Chain", "ChainNode", "chain12"]


class ChainNode(nn.Module):
    """A 3x3 convolution, BatchNorm and ReLU."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, channels, H / stride, W / stride)."""
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class Chain(nn.Module):
    """A stem, ``chain.node1`` to the last node, global average pooling and a linear layer.

    For the arguments see :func:`chain12`, which checks them.
    """

    def __init__(self, channels: int, nodes: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.stem = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels)))
        halved = {nodes // 3 + 1, 2 * nodes // 3 + 1}
        self.chain = nn.Sequential(
            OrderedDict((f"node{j}", ChainNode(channels, 2 if j in halved else 1)) for j in range(1, nodes + 1))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the convolutions as in He et al. 2015 (arXiv 1502.01852), fan out, from torch's global generator.

        BatchNorm starts as the identity; the linear layer has torch's default.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.fc(torch.flatten(self.pool(self.chain(self.stem(x))), 1))
        return logits


def chain12(channels: int = 36, nodes: int = 12, num_classes: int = 10, in_channels: int = 3) -> Chain:
    """A chain of twelve conv-BN-ReLU nodes with two reductions, the base of ENAS's macro space.

    Args:
        channels: Channels of every node.
        nodes: Nodes after the stem, at least 3; the map is halved after one third and after two thirds of them.
        num_classes: Length of the logits.
        in_channels: Channels of the image.

    Raises:
        UsageError: An argument is not a positive integer, or there are fewer than three nodes.
    """
    check_sizes(channels=channels, nodes=nodes, num_classes=num_classes, in_channels=in_channels)
    if nodes < 3:
        raise UsageError(
            f"a chain with two reductions needs at least 3 nodes, not {nodes}", where="nodes", kind="model_arguments"
        )
    return Chain(channels, nodes, num_classes, in_channels)
