"""``narfx ops test`` and ``narfx ops list``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Run
from own_operators import own_folder, refused, write
from torch import nn

import narfx
from narfx.errors import NarfxError
from narfx.operators import (
    operator_names,
)
from narfx.verbs.ops_test import CHECKS, try_operators

OWN = operator_names()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return own_folder(capfd, tmp_path, monkeypatch)


def test_ops_test_passes_the_documented_example(run: Run) -> None:
    code, out, err = run("ops", "test", "my_ops.py", "--json")
    report = json.loads(out)
    assert code == 0, err
    assert report["passed"] and report["file"] == "my_ops.py" and report["notes"] == []
    (entry,) = report["operators"]
    assert entry == {"name": "strips3x3", "passed": True, "legal": 20, "refused": 11}
    assert {record["check"] for record in report["checks"]} == set(CHECKS)
    assert sum(record["check"] == "onnx" for record in report["checks"]) == 2
    reasons = [entry["reason"] for entry in report["geometries"] if not entry["legal"]]
    assert len(reasons) == 11 and all(reasons)


def test_ops_test_shows_what_failed(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "ops.py", cost="lambda site: {'params': 1, 'macs': 0}")
    code, out, _ = run("ops", "test", "ops.py")
    assert code == 2 and "FAILED" in out and "cost(site) says 1 params" in out
    assert "maps 16x8x8 to 16x8x8 at 3x3 16->16 on 8x8 padding 0" in " ".join(out.split())
    code, out, err = run("ops", "test", "ops.py", "--json")
    report = json.loads(out)
    assert code == 2 and not report["passed"] and "Traceback" not in err
    assert {record["check"] for record in report["checks"] if not record["passed"]} == {"site", "cost"}


def test_an_operator_that_is_legal_nowhere_does_not_pass(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "ops.py", refuse="lambda site: 'no'")
    code, out, _ = run("ops", "test", "ops.py", "--json")
    (failed,) = json.loads(out)["checks"]
    assert code == 2 and failed["check"] == "legal" and "none of the 31 geometries" in failed["message"]
    assert "every geometry" in run("ops", "test", "ops.py")[1]


def test_ops_test_without_a_file_is_one_sentence(run: Run) -> None:
    assert refused(run, "ops", "test", "none.py")["kind"] == "missing_file"


def test_ops_list_shows_all_of_them(run: Run) -> None:
    code, out, _ = run("ops", "list", "my_ops.py", "--json")
    report = json.loads(out)
    assert code == 0 and [entry["name"] for entry in report["operators"]] == [*OWN, "strips3x3"]
    costs = {entry["name"]: entry["params"] for entry in report["operators"]}
    assert costs["base"] == 36864 and costs["strips3x3"] == 2 * 3 * 64 * 64 and costs["identity"] == 0
    code, out, _ = run("ops", "list")
    assert code == 0 and all(name in out for name in OWN) and "site's own convolution" in out


class Leaky(nn.Module):
    """A 1x1 convolution with one fault."""

    def __init__(self, channels: int, fault: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.idle = nn.Parameter(torch.ones(1))
        self.fault = fault
        self.hidden = [torch.zeros(1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        idle = self.idle.detach() if self.fault == "gradient" else self.idle
        y: torch.Tensor = self.conv(x) * idle
        if self.fault == "output" and self.training:
            y = y / 0
        if self.fault == "repeat":
            self.hidden[0] += 1
            y = y + self.hidden[0]
        if self.fault == "onnx" and y.sum() > 1e9:
            y = y + 1
        return y

    def __deepcopy__(self, memo: dict[int, Any]) -> Leaky:
        if self.fault == "copy":
            return self
        other = Leaky(self.conv.in_channels, self.fault)
        other.load_state_dict(self.state_dict())
        return other.train(self.training)


_SHARED = nn.Conv2d(16, 16, 1)


def half(module: nn.Module, conv: nn.Conv2d) -> None:
    module.half()


def unset(module: nn.Module, conv: nn.Conv2d) -> None:
    for parameter in module.parameters():
        parameter.fill_(float("nan"))


class Stateful(nn.Module):
    """It keeps a weight where no state dict finds it."""

    count = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        Stateful.count += 1
        self.number = Stateful.count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x) + self.number
        return y


class NoGrad(nn.Module):
    """It computes without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y


class Fives(nn.Module):
    """At a batch of five it makes no map of its size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., : 3 if len(x) == 5 else None] * 1


@pytest.mark.parametrize(
    ("check", "build", "fields", "words"),
    [
        ("build", lambda site: _SHARED, {}, "share a parameter"),
        ("start", None, {"start": half}, "as torch.float16, not torch.float32"),
        ("start", None, {"start": unset}, "not finite"),
        ("output", None, {}, "not finite in training mode"),
        ("gradient", None, {}, "no gradient reaches idle"),
        ("gradient", lambda site: nn.Sequential(nn.Conv2d(16, 16, 1), nn.Threshold(9e9, 0)), {}, "reaches the input"),
        ("gradient", lambda site: NoGrad(), {}, "no gradient reaches anything"),
        ("onnx", lambda site: Fives(), {}, "for a batch of 5, not (5, 16, 12, 12)"),
        ("cost", None, {"cost": lambda site: {"params": 0, "macs": 0}}, "says 0 params, the module has 273"),
        ("repeat", None, {}, "two calls in eval mode"),
        ("copy", None, {}, "a deepcopy gives another output, or shares"),
        ("state", lambda site: Stateful(16), {}, "the same state dict gives another output"),
        ("onnx", None, {}, "torch's ONNX exporter cannot export"),
    ],
)
def test_each_check_finds_its_fault(
    check: str, build: Callable[[Any], nn.Module] | None, fields: dict[str, Any], words: str
) -> None:
    def only(site: Any) -> str | None:
        return None if site.kernel == (7, 7) and site.output_shape == site.input_shape else "tried elsewhere"

    made = build or (lambda site: Leaky(16, check))
    narfx.register_operator(narfx.Operator("mine", made, only, **fields))
    report = try_operators(["mine"])
    messages = [record["message"] for record in report["checks"] if record["check"] == check and not record["passed"]]
    assert messages and words in messages[0] and not report["passed"]


def test_trying_operators_spares_the_callers_random_numbers() -> None:
    before = torch.get_rng_state()
    with pytest.raises(NarfxError, match="unknown operator"):
        try_operators(["nothing"])
    assert torch.equal(torch.get_rng_state(), before)
