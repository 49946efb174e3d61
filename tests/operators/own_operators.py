"""The network and the operator files that the tests of own operators write, and what a refusal must be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command import Run, in_process

ROOT = Path(__file__).parents[2]

NET = """
import torch
from torch import nn

INPUT_SHAPE = (1, 8, 8)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.a(self.stem(x)))
        return self.head(self.b(x).mean((2, 3)))
"""

ONE = """
import narfx
from torch import nn

def build(site):
    return nn.Conv2d(site.in_channels, site.out_channels, 1, stride=site.stride, groups=site.groups)

narfx.register_operator(narfx.Operator({name!r}, build, {refuse}, {cost}, {start}))
"""


SMALL = """
import narfx
from torch import nn

class Small(nn.Module):
    def __init__(self, site, pairs):
        super().__init__()
        self.conv = nn.Conv2d(site.in_channels, site.out_channels, 1)
        self.pairs = pairs

    def forward(self, x):
        y = self.conv(x)
        if self.pairs:
            return y.reshape(2, -1, *x.shape[2:])
        if len(x) > 3:
            raise ValueError("too many")
        return y

narfx.register_operator(narfx.Operator("small", lambda site: Small(site, False)))
narfx.register_operator(narfx.Operator("pairs", lambda site: Small(site, True)))
"""

CACHED = """
import narfx
from torch import nn

KEPT = {}

def build(site):
    key = site.in_channels, site.out_channels
    return KEPT.setdefault(key, nn.Conv2d(*key, 1))

def refuse(site):
    return None if site.input_shape == site.output_shape and site.groups == 1 else "no"

narfx.register_operator(narfx.Operator("cached", build, refuse))
"""


def write(path: Path, name: str = "mine", *, refuse: str = "None", cost: str = "None", start: str = "None") -> Path:
    """A file with one operator, a 1x1 convolution."""
    path.write_text(ONE.format(name=name, refuse=refuse, cost=cost, start=start))
    return path


def refused(run: Run, *arguments: str) -> dict[str, Any]:
    """Run with --json: exit code 2, one JSON object, one sentence on standard error, no traceback."""
    code, out, err = run(*arguments, "--json")
    error: dict[str, Any] = json.loads(out)["error"]
    assert (code, error["code"]) == (2, 2), error
    assert error["message"] in err and "Traceback" not in err
    return error


def own_folder(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run narfx in this process, in a fresh folder that holds ``net.py`` and ``my_ops.py``, the documentation's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    text = (ROOT / "docs" / "operators.md").read_text()
    (tmp_path / "my_ops.py").write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])
    return in_process(capfd)
