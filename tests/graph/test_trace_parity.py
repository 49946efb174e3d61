"""What torch.fx does not see of a forward: told on every way from a user's model to a result."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from narfx.cli.app import app as cli
from narfx.cli.console import run_app
from narfx.graph.trace_parity import compare_trace
from narfx.graph.tracing import trace_graph

Trace = Callable[..., tuple[int, dict[str, Any]]]

FILE = """
import torch
from torch import nn
from torch.nn import functional as F

INPUT_SHAPE = (3, 16, 16)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.part, self.last = nn.Conv2d(3, 8, 3), Part(), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.last(self.part(torch.relu(self.stem(x)))).mean((2, 3))

class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
"""


@pytest.fixture
def trace(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """``narfx trace`` of the network above with this forward of its part."""
    monkeypatch.chdir(tmp_path)

    def call(forward: str, *options: str) -> tuple[int, dict[str, Any]]:
        body = "".join(f"        {line}\n" for line in forward.strip().splitlines())
        (tmp_path / "net.py").write_text(f"{FILE}{body}\n\ndef model():\n    return Net()\n")
        code = run_app(cli, ["trace", "net.py", *options, "--json"])
        return code, json.loads(capfd.readouterr().out)

    return call


@pytest.mark.parametrize(
    "forward",
    [
        "if isinstance(x, torch.Tensor):\n    x = x * 2\nreturn self.conv(x)",
        "return self.conv(x) if torch.fx._symbolic_trace.is_fx_tracing() else self.conv(x) * 2",
        "return self.conv(x * (2.0 if torch.is_tensor(x) else 1.0))",
    ],
)
def test_a_trace_that_computes_something_else_is_an_error(trace: Trace, forward: str) -> None:
    code, report = trace(forward)
    assert (code, report["error"]["kind"]) == (5, "trace_differs")
    assert report["error"]["message"].startswith(
        "the trace of Net does not compute what the model computes: first mismatch at"
    )
    assert "net.py:" in report["error"]["where"]
    assert "\n" not in report["error"]["message"]


@pytest.mark.parametrize(
    "forward",
    [
        "self.count = getattr(self, 'count', 0) + 1\nreturn self.conv(x) * self.count",
        "if not hasattr(self, 'first'):\n    self.first = x.mean()\nreturn self.conv(x) * self.first",
    ],
)
def test_what_a_model_keeps_from_call_to_call_is_an_error(trace: Trace, forward: str) -> None:
    code, report = trace(forward)
    assert (code, report["error"]["kind"]) == (5, "trace_differs")
    assert "keeps state outside its buffers from call to call" in report["error"]["message"]


def test_a_comparison_leaves_the_model_as_it_was() -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.conv.weight.clamp_(-0.01, 0.01)
            return self.conv(x)  # type: ignore[no-any-return]

    model = Clamped()
    before = model.conv.weight.detach().clone()
    compare_trace(model, trace_graph(model).graph_module, (3, 8, 8))
    assert torch.equal(model.conv.weight, before)


def test_a_difference_that_does_not_reach_the_output_is_found(trace: Trace) -> None:
    """Blocks that start as nothing (zero_init_residual) hide what happens in them until they are trained."""
    code, report = trace("return 0 * self.conv(x * 2 if isinstance(x, torch.Tensor) else x)")
    assert (code, report["error"]["kind"]) == (5, "trace_differs")
    assert "first mismatch at part.conv (input or output)" in report["error"]["message"]


def test_a_model_that_is_random_in_eval_mode_is_noted(trace: Trace) -> None:
    code, report = trace("return self.conv(x) + torch.randn(1, 8, 1, 1)")
    assert code == 0
    assert any("the trace was not compared: Net is random in eval mode" in note for note in report["notes"])


def test_randomness_that_the_trace_has_too_is_no_difference(trace: Trace) -> None:
    code, report = trace("return self.conv(x) + torch.randn_like(x)")
    assert (code, report["notes"]) == (0, [])


def test_a_model_that_fails_on_random_images_is_noted(trace: Trace) -> None:
    code, report = trace("return self.conv(x).view(x.shape[0], 8, 14, 14) if True else 1")
    assert code == 0
    assert report["notes"] == []
    code, report = trace("x = self.conv(x)\nif isinstance(x, torch.Tensor):\n    raise ValueError('no')\nreturn x")
    assert code == 0
    assert report["notes"] == ["the trace was not compared: the model fails on random images (no)"]


def test_numbers_that_are_none_are_no_difference(trace: Trace) -> None:
    code, report = trace("return self.conv(x) * float('nan')")
    assert (code, report["notes"]) == (0, [])


def test_a_comparison_leaves_the_global_generators(trace: Trace) -> None:
    def states() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    before = states()
    trace("import random\nimport numpy\nreturn self.conv(x) + torch.rand(1) * random.random() * numpy.random.rand()")
    assert states() == before


def test_what_is_wrong_is_not_applied(trace: Trace, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace("return self.conv(x * 2 if isinstance(x, torch.Tensor) else x)")
    (tmp_path / "arch.json").write_text('{"model": "net.py", "vector": [1, 0]}')
    assert run_app(cli, ["apply", "arch.json", "--out", "bundle", "--json"]) == 5
    assert json.loads(capfd.readouterr().out)["error"]["kind"] == "trace_differs"
    assert not (tmp_path / "bundle").exists()


def test_an_export_that_fails_names_the_opaque_part(
    trace: Trace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _ = trace("if x.mean() > 0:\n    return x\nreturn self.conv(x)")
    assert code == 0
    (tmp_path / "arch.json").write_text('{"model": "net.py", "vector": [1]}')
    assert run_app(cli, ["apply", "arch.json", "--out", "bundle", "--json"]) == 7
    out, err = capfd.readouterr()
    error = json.loads(out)["error"]
    assert (error["kind"], error["where"]) == ("onnx_export", "part")
    assert re.search(r"cannot export part \(Part\), which stayed opaque at .*net\.py:\d+ \(", error["message"])
    assert error["message"].endswith("write it without a branch on values, for example with torch.where")
    assert len(err.strip().splitlines()) == 1
