"""The comparison node by node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_exports import SHAPE, net, spoil

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
