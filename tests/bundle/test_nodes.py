"""The comparison node by node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_exports import SHAPE, net, spoil
from torch import Tensor, fx, nn

from narfx.bundle.onnx.write import export_onnx
from narfx.bundle.proof.nodes import compare_nodes


@pytest.mark.parametrize(
    "finish",
    [
        lambda x, y: y.view(-1, 256).add_(1.0).sum(1) + y.sum((1, 2, 3)),  # a view, changed in place
        lambda x, y: torch.relu(y + 1) + torch.relu(y + 1),  # the file computes it once
        lambda x, y: F.max_pool2d(y, 2).mean(1) + torch.max_pool2d(y, 2).sum(1),  # and that
        lambda x, y: y.masked_fill(y > 0, -float("inf")).flatten(1).softmax(1),
        lambda x, y: (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, keepdim=True, unbiased=False) + 1e-6),
        lambda x, y: (y - y.mean((0, 2, 3), keepdim=True)) / (y.std((0, 2, 3), keepdim=True) + 1e-3),
        lambda x, y: torch.cat([y, torch.ones_like(y[:, :1]).cumsum(2), torch.ones_like(y[:, :1]).cumsum(3)], 1),
        lambda x, y: (torch.log(y - 0.5).nan_to_num(0.0), y.chunk(2, 1)[1].relu(), F.normalize(y.flatten(1))),
        lambda x, y: {"same": y, "flat": y.flatten(1), "image": x, "k": torch.ones(3), "half": y.half()},
    ],
)
def test_no_right_file_fails_node_by_node(tmp_path: Path, finish: Callable[..., Any]) -> None:
    network = net(finish)
    export_onnx(network, SHAPE, tmp_path / "model.onnx")
    found = compare_nodes(network, tmp_path / "model.onnx", SHAPE)
    assert found.difference is None and found.compared >= 2 and found.max_rel_error < 1e-5
    spoil(tmp_path / "model.onnx", "conv.weight", 1.01)
    wrong = compare_nodes(network, tmp_path / "model.onnx", SHAPE)
    assert wrong.difference is not None and wrong.difference.node == "norm"


class Identities(nn.Module):
    """The sum of two inputs, and again inside another sum: two nodes of a cell that keep skips from both inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.skips = nn.ModuleList(nn.Identity() for _ in range(6))
        self.third, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x), self.two(x)
        first = self.skips[0](a) + self.skips[1](b)
        second = self.skips[2](a) + self.skips[3](b) + self.skips[4](first)
        joined: Tensor = self.last(torch.cat([self.third(self.skips[5](first)), second], 1))
        return joined.mean((2, 3))


def test_sums_of_identities_that_a_file_computes_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, file = fx.symbolic_trace(Identities().eval()).eval(), tmp_path / "model.onnx"
    export_onnx(network, (3, 8, 8), file)
    found = compare_nodes(network, file, (3, 8, 8))
    assert found.difference is None and found.max_rel_error < 1e-5
    for weight, node in (("one.weight", "one"), ("third.weight", "third"), ("last.weight", "last")):
        export_onnx(network, (3, 8, 8), file)
        spoil(file, weight, 1.01)
        wrong = compare_nodes(network, file, (3, 8, 8))
        assert wrong.difference is not None and wrong.difference.node == node
