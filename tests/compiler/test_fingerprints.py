"""Fingerprints as files in the field carry them: an arch.json of an earlier release must still find its model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import narfx


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b, self.fc = Block(), Block(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.b(self.a(torch.relu(self.stem(x))))
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("options", "fingerprint", "last"),
    [
        ({}, "2244604149925022", "operators base,dwsep3x3,maxpool3x3,avgpool3x3"),
        ({"search_skips": True}, "5dda649360367e27", "skip 2->4 base a.conv2 -> b.conv2"),
        ({"granularity": "block"}, "1481c35ed99ac6c5", "operators base,dwsep3x3,maxpool3x3,avgpool3x3"),
    ],
)
def test_the_fingerprint_of_a_model_stays(options: dict[str, Any], fingerprint: str, last: str) -> None:
    space = narfx.trace(Net(), (3, 12, 12), **options).space
    assert space.lines()[-1].endswith(last)
    assert space.fingerprint() == fingerprint
