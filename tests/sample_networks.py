"""Networks that the tests of the compiler share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Chain", "Fickle", "ResidualNet", "Shared", "images", "part", "settled"]


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with random weights and, as after training, BatchNorms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                scale = 1 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
                assert norm.running_var is not None
                norm.running_mean.normal_(0, 0.5, generator=generator)
                norm.running_var.uniform_(0.5, 2.0, generator=generator)
    return model.eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def part(model: nn.Module, path: str) -> Any:
    """A submodule by its path; what it is, the test knows."""
    return model.get_submodule(path)


class Chain(nn.Module):
    """A stem, then 3x3 convolutions of eight channels, each with BatchNorm and an in-place ReLU, and a linear layer."""

    def __init__(self, depth: int = 2, classes: int = 5, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return logits


class ResidualNet(nn.Module):
    """Two residual blocks, whose modules have names that say nothing."""

    def __init__(self, names: Sequence[str] = ("p", "q", "r", "s", "t")) -> None:
        super().__init__()
        self.names = names
        self.add_module(names[0], nn.Conv2d(3, 8, 3, padding=1))
        for name in names[1:]:
            self.add_module(name, nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        stem, a, b, c, d = (self.get_submodule(name) for name in self.names)
        x = stem(x)
        x = torch.relu(b(torch.relu(a(x))) + x)
        last: Tensor = d(torch.relu(c(x))) + x
        return last


class Shared(nn.Module):
    """One convolution that is called at three places, on maps of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.again(self.stem(x)))))
        last: Tensor = self.again(nn.functional.max_pool2d(x, 2))
        return last


class Fickle(nn.Module):
    """A part that some instances of cannot be traced."""

    def __init__(self, bad: bool) -> None:
        super().__init__()
        self.bad, self.conv = bad, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if not self.bad or x.sum() > 0 else x
