"""Weights that are no numbers, at the sites and elsewhere: one sentence with their key, not a parity that failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sample_networks import images, settled
from torch import Tensor, fx, nn

import narfx
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import UsageError

SHAPE = (3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.a = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.register_buffer("mask", torch.zeros(8, 1, 1))
        self.mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(self.norm(self.stem(x))) + torch.exp(self.mask)
        return y


def lowered(model: nn.Module) -> fx.GraphModule:
    found = narfx.trace(model, input=SHAPE)
    return narfx.lower(narfx.Supernet(found), (1,))


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, v) for key in ("stem.weight", "norm.weight", "norm.running_mean") for v in (NAN, INFINITE)),
        ("mask", NAN),
    ],
)
def test_the_key_is_named(tmp_path: Path, key: str, value: float) -> None:
    model = settled(Net())
    model.state_dict()[key].view(-1)[-1] = value
    with pytest.raises(UsageError) as raised:
        narfx.export(lowered(model), tmp_path / "out")
    assert (raised.value.kind, raised.value.where) == ("weights_not_finite", key)
    assert key in str(raised.value) and list(tmp_path.iterdir()) == []


def test_a_mask_of_infinities_is_none_of_these(tmp_path: Path) -> None:
    model = settled(Net())
    model.state_dict()["mask"].fill_(-INFINITE)
    assert torch.isfinite(model(images(1, *SHAPE))).all()
    assert narfx.export(lowered(model), tmp_path / "out")["parity"]["passed"]


def test_apply_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef model():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))\n"
        "    nn.init.constant_(net[0].weight, float('nan'))\n    return net\n"
    )
    (tmp_path / "arch.json").write_text(json.dumps({"model": "net.py", "vector": [1], "input": SHAPE}))
    code = run_app(app, ["apply", "arch.json", "--out", "out", "--json"])
    out, err = capfd.readouterr()
    error = json.loads(out)["error"]
    assert (code, error["kind"], error["where"]) == (2, "weights_not_finite", "0.weight")
    assert "Traceback" not in err and not (tmp_path / "out").exists()
