"""A model without values, built on the meta device: a trace needs none, and whatever needs them says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sample_networks import Chain
from torch import nn

import narfx
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import UsageError

SHAPE = (1, 8, 8)
MODEL = """
import torch
from torch import nn

INPUT_SHAPE = (1, 8, 8)


def model():
    with torch.device("meta"):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 10)
        )
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "arch.json").write_text(json.dumps({"model": "net.py", "vector": [1]}))
    sizes = {"0.weight": (8, 1, 3, 3), "0.bias": (8,), "1.weight": (8, 8, 3, 3), "1.bias": (8,)}
    sizes |= {"3.weight": (10, 512), "3.bias": (10,)}
    save_file({name: torch.zeros(size) for name, size in sizes.items()}, tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(capfd: pytest.CaptureFixture[str], arguments: str) -> tuple[int, Any]:
    code = run_app(app, [*arguments.split(), "--json"])
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    return code, json.loads(told.out)


def test_a_trace_needs_no_values(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, report = answer(capfd, "trace net.py")
    assert (code, report["slots"]) == (0, 1)
    with torch.device("meta"):
        model = Chain().eval()
    traced = narfx.trace(model, input=(3, 16, 16))
    lowered = narfx.lower(narfx.Supernet(traced), [1] * len(traced.space))
    assert all(parameter.is_meta for parameter in lowered.parameters())


@pytest.mark.parametrize(
    "arguments",
    [
        "trace net.py --weights net.safetensors",
        "trace net.py --latency",
        "apply arch.json --out out",
        "apply arch.json --out out --weights net.safetensors",
        "evaluate net.py --data digits",
        "train arch.json --data digits --out out --epochs 1",
        "train net.py --data digits --out out --epochs 1 --init scratch",
        "search net.py --data digits --out out --epochs 1 --pretrain-epochs 0",
        "compare arch.json --data digits --out out --epochs 1",
    ],
)
def test_what_needs_values_says_so(place: Path, capfd: pytest.CaptureFixture[str], arguments: str) -> None:
    code, report = answer(capfd, arguments)
    error = report["error"]
    assert (code, error["code"], error["kind"]) == (2, 2, "weights_on_meta"), error
    assert error["where"] in ("0.weight", "1.weight")
    assert "0.weight is on the meta device" in error["message"]
    assert "build the model on the CPU" in error["message"]
    assert sorted(path.name for path in place.iterdir()) == ["arch.json", "net.py", "net.safetensors"]


def test_check_needs_values_too(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "net.py").write_text(MODEL.replace('"meta"', '"cpu"'))
    assert answer(capfd, "apply arch.json --out out")[0] == 0
    (place / "out" / "model.py").unlink()
    (place / "net.py").write_text(MODEL)
    code, report = answer(capfd, "check out")
    assert (code, report["error"]["kind"]) == (2, "weights_on_meta")


def test_an_export_names_a_buffer_without_values_as_well(tmp_path: Path) -> None:
    traced = narfx.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)), input=(3, 8, 8))
    network = narfx.lower(narfx.Supernet(traced), traced.space.base)
    network.get_submodule("2").to("meta", torch.float32)
    norm: Any = network.get_submodule("2")
    norm.weight, norm.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
    with pytest.raises(UsageError, match=r"2\.running_mean is on the meta device") as caught:
        narfx.export(network, tmp_path / "out")
    assert (caught.value.kind, list(tmp_path.iterdir())) == ("weights_on_meta", [])
