"""Small networks, their ONNX files, and what spoils them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from sample_networks import settled
from torch import Tensor, fx, nn

import narfx
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import load_model

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """One convolution with BatchNorm; ``finish`` makes what it returns of its input and its features."""

    def __init__(self, finish: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.finish = finish

    def forward(self, x: Tensor) -> Any:
        return self.finish(x, torch.relu(self.norm(self.conv(x))))


def net(finish: Callable[..., Any] = lambda x, y: y.mean((2, 3))) -> fx.GraphModule:
    return trace_graph(settled(Net(finish))).graph_module


def written(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def resnet_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a ResNet-8 in which each kind of operator stands."""
    folder = tmp_path_factory.mktemp("resnet")
    model = settled(load_model("narfx:resnet8?width=4"))
    torch.save(model.state_dict(), folder / "base.pt")
    arch = narfx.Architecture(model="narfx:resnet8?width=4", vector=(1, 0, 2, 0, 3, 0), input=(3, 16, 16))
    narfx.apply(arch, folder / "out", weights=str(folder / "base.pt"))
    return folder / "out"


def copy_of(resnet: Path, tmp_path: Path) -> Path:
    shutil.copytree(resnet, tmp_path / "out")
    return tmp_path / "out"


def spoil(path: Path, weight: str, factor: float = 1.5) -> None:
    """Change one weight of a file, wherever the exporter has fused it."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, weight))
    onnx.save(model, path)


def torch_weights(bundle: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(bundle / "model.safetensors")
