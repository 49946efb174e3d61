"""Convolutions by class with a forward of their own: sites where the data flow says so, else whole."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import narfx
from narfx.graph.trace_parity import compare_trace

SHAPE = (3, 8, 8)


class Wrapped(nn.Conv2d):
    """With its own normalisation and activation."""

    def __init__(self, *args: Any, norm: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return F.relu_(x if self.norm is None else self.norm(x))


class AsInDetectron2(Wrapped):
    """Treats an empty batch apart, as detectron2's ``Conv2d`` does."""

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings(record=True):
            if x.numel() == 0 and self.training:
                assert not isinstance(self.norm, nn.SyncBatchNorm)
        if x.numel() > 0:
            return super().forward(x)
        return x


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


class Careful(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.numel() > 0 else x.new_empty(x.shape)


def _net(middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), middle, nn.Conv2d(8, 4, 1)).eval()


@pytest.mark.parametrize(
    "middle",
    [
        Wrapped(8, 8, 3, padding=1),
        Wrapped(8, 8, 3, padding=1, bias=False, norm=nn.BatchNorm2d(8)),
        Wrapped(8, 8, 3, padding=1, bias=False, norm=Careful(8)),
        AsInDetectron2(8, 8, 3, padding=1, bias=False, norm=nn.BatchNorm2d(8)),
        Scaled(8, 8, 3, padding=1),
    ],
    ids=["plain", "norm", "careful", "detectron2", "scaled"],
)
def test_a_wrapper_around_one_plain_convolution_is_a_site(middle: nn.Module) -> None:
    model = _net(middle)
    traced = narfx.trace(model, input=SHAPE)
    (site,) = traced.space.sites
    assert site.target.startswith("1.") and site.own_params == sum(
        parameter.numel() for name, parameter in middle.named_parameters() if "norm" not in name
    )
    assert compare_trace(model, traced.graph_module, SHAPE) == []
    net = narfx.Supernet(traced).eval()
    x = torch.randn(2, *SHAPE)
    assert torch.equal(net(x), model(x))
    assert narfx.lower(net, (0,)).state_dict().keys() == model.state_dict().keys()
    net.set_vector((2,))
    lowered = narfx.lower(net, (2,)).eval()
    assert torch.equal(lowered(x), net(x)) and not torch.equal(lowered(x), model(x))


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Decayed(nn.Conv2d):
    """Reads its weight beside the convolution: an operator would leave that read behind."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.weight.pow(2).mean()


class BySize(nn.Conv2d):
    """Asks for more than whether there are values at all."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.numel() > 1000 else x


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(super().forward(x), self.weight, padding=1)


@pytest.mark.parametrize("kind", [Standardised, Decayed, BySize, Twice])
def test_any_other_forward_leaves_the_convolution_whole(kind: type[nn.Conv2d]) -> None:
    with pytest.raises(narfx.errors.NothingToRefineError, match="a subclass of Conv2d with its own forward"):
        narfx.trace(_net(kind(8, 8, 3, padding=1)), input=SHAPE)
