"""A model whose own ``train()`` keeps parts in eval mode: narfx's training keeps them so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import narfx
from narfx.graph.batchnorm import batch_statistics, recalibrate
from narfx.graph.frozen import train_mode
from narfx.graph.trace_parity import compare_trace

SHAPE = (3, 8, 8)


class NormEval(nn.Module):
    """``returns`` says whether ``train()`` returns the model, as ``nn.Module`` does, or nothing."""

    def __init__(self, returns: bool = True) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.free = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
        )
        self.returns = returns
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.free(self.b(F.relu(self.norm(self.a(x))))).mean((2, 3))
        return result

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.norm.eval()
        return self if self.returns else None


@pytest.mark.parametrize("returns", [True, False])
def test_a_frozen_norm_stays_in_supernet_and_lowered_network(returns: bool) -> None:
    model = NormEval(returns)
    assert compare_trace(model, narfx.trace(model, input=SHAPE).graph_module, SHAPE) == []
    traced = narfx.trace(model, input=SHAPE)
    assert any("train() keeps 1 part in eval mode (norm)" in note for note in traced.notes)
    net = narfx.Supernet(traced)
    x = torch.randn(8, *SHAPE) + 3
    for network in (net, narfx.lower(net, (0,)), narfx.lower(net, (2,))):
        before = {name: value.clone() for name, value in network.named_buffers()}
        train_mode(network)
        network(x)
        recalibrate(network, [x])
        with batch_statistics(network):
            network(x)
        moved = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
        assert moved and not [name for name in moved if "norm" in name and "free" not in name]


def test_narfx_trains_a_lowered_network_as_its_model_trains() -> None:
    torch.manual_seed(0)
    model, x = NormEval(), torch.randn(8, *SHAPE) + 3
    network = narfx.lower(narfx.Supernet(narfx.trace(model, input=SHAPE)), (0,))
    model.train()
    train_mode(network)
    assert torch.equal(network(x), model(x))


def test_a_model_without_a_train_of_its_own_has_no_note() -> None:
    traced = narfx.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)), input=SHAPE)
    assert traced.notes == ()
