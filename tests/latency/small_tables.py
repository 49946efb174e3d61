"""A small network, and latencies that are known without measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command import Run, in_process

from narfx.compiler.front_end import trace
from narfx.compiler.traced import Traced
from narfx.inputs.model_ref import load_model
from narfx.latency.measure import networks, probes
from narfx.latency.table import LatencyTable, Setting
from narfx.space.records import Site

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(self.stem(x))))
        return self.head(self.b(x).mean((2, 3)))
"""


SETTING = Setting(onnxruntime="1.0", cpu="a processor of long ago")


def small_network(tmp_path: Path) -> Traced:
    (tmp_path / "net.py").write_text(NET)
    return trace(load_model(str(tmp_path / "net.py")), input=(1, 8, 8), operators=("base", "dwsep3x3"))


def in_folder_of_net(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)

    return in_process(capfd)


def known(
    traced: Traced, base: float = 2.0, light: float = 0.5, whole: float = 5.0, uniform: float = 2.0
) -> LatencyTable:
    """A table of made-up times: of each base operator, each other one, the base network and the uniform ones."""
    found = probes(traced.space)
    return LatencyTable(
        setting=SETTING,
        operators={each.key: base if each.operator == "base" else light for each in found.values()},
        networks={key: whole if name == "base" else uniform for name, (key, _) in networks(traced, found).items()},
    )


def site(**changes: Any) -> Site:
    values: dict[str, Any] = {
        "target": "c", "occurrence": 0, "kind": "conv3x3", "in_channels": 8, "out_channels": 16, "kernel": (3, 3),
        "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "bias": False, "padding_mode": "zeros",
        "input_shape": (8, 6, 6), "output_shape": (16, 3, 3),
    }  # fmt: skip
    return Site(**(values | changes))
