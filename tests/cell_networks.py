"""A user's network of cells, as a file of the user's: nothing in it is narfx's."""

from __future__ import annotations

__all__ = ["USER_CELLS"]

USER_CELLS = """
import torch
from torch import nn

INPUT_SHAPE = (3, 8, 8)


class Halve(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.left = nn.Conv2d(channels, channels // 2, 1, stride=2, bias=False)
        self.right = nn.Conv2d(channels, channels // 2, 1, stride=2, bias=False)

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x[:, :, 1:, 1:])], 1)


def conv(channels, stride, kernel):
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
    )


class Edge(nn.Module):
    def __init__(self, channels, stride, slot):
        super().__init__()
        self.channels, self.stride, self.narfx_slot = channels, stride, slot
        self.op = conv(channels, stride, 3)

    def narfx_candidates(self):
        c, s = self.channels, self.stride
        return {
            "conv3": None,
            "none": None,
            "skip": lambda: nn.Identity() if s == 1 else Halve(c),
            "pool": lambda: nn.AvgPool2d(3, s, 1),
            "conv5": lambda: conv(c, s, 5),
        }

    def forward(self, x):
        return self.op(x)


class Cell(nn.Module):
    def __init__(self, before, channels, reduce):
        super().__init__()
        self.pre = nn.Sequential(nn.Conv2d(before, channels, 1, bias=False), nn.BatchNorm2d(channels))
        kind = "reduce" if reduce else "normal"
        self.edges = nn.ModuleDict({
            f"{i}_{j}": Edge(channels, 2 if reduce and i == 0 else 1, f"{kind} {i}->{j}")
            for j in (1, 2) for i in range(j)
        })

    def forward(self, x):
        nodes = [self.pre(x)]
        for j in (1, 2):
            nodes.append(sum(self.edges[f"{i}_{j}"](nodes[i]) for i in range(j)))
        return torch.cat(nodes[1:], 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.cells = nn.Sequential(Cell(4, 4, False), Cell(8, 8, True), Cell(16, 8, False))
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.cells(self.stem(x)).mean((2, 3)))


def model() -> Net:
    return Net()
"""
