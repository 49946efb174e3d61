"""Bundles of small networks, and how their files are changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from safetensors.torch import save_file
from sample_networks import settled

import narfx
from narfx.inputs.model_ref import load_model

HEAD = """
import torch
from torch import nn

INPUT_SHAPE = (3, 8, 8)
"""


NET = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 2, padding=1, groups=2), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.norm(self.one(x))) + x
        return self.head(self.body(x).mean((2, 3)))
"""
)


def model_file(folder: Path, source: str = NET, **values: Any) -> Path:
    """``net.py`` and an ``arch.json`` beside it; its path."""
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(source)
    (folder / "arch.json").write_text(json.dumps({"model": "net.py", "vector": [1, 2], **values}))
    return folder / "arch.json"


def folder_with_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, weights for it, an architecture, and its bundle in ``out``."""
    folder = tmp_path_factory.mktemp("home")
    arch = model_file(folder, preprocessing={"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}, metrics={"top1": 0.5})
    model = settled(load_model(str(folder / "net.py")))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "base.safetensors")
    report = narfx.apply(arch, folder / "out", weights=str(folder / "base.safetensors"))
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def report_of(home: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((home / "report.json").read_text())
    return loaded


def change_initializer(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if numpy_helper.to_array(tensor).size > 8)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.001, tensor.name))
    onnx.save(model, bundle / "model.onnx")
