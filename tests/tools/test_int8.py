"""examples/int8.py: the ONNX file of a bundle in int8, calibrated on own images, is about as accurate as in float32."""

from __future__ import annotations

import json
import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkout import ROOT
from command import Run, in_process

MODEL = "narfx:resnet_cifar?depth=8&width=8&in_channels=1&num_classes=10"


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture
def int8(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The example with these arguments, in this process: why it stopped, or nothing."""
    main = runpy.run_path(str(ROOT / "examples" / "int8.py"))["main"]
    logger = logging.getLogger()
    monkeypatch.setattr(logger, "level", logger.level)

    def called(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["int8.py", *arguments])
        try:
            main()
        except SystemExit as stopped:
            return str(stopped.code)
        finally:
            capfd.readouterr()
        return ""

    return called


def test_a_bundle_in_int8(
    narfx: Run, int8: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arch.json").write_text(json.dumps({"model": MODEL, "input": [1, 8, 8], "vector": [0, 1, 0, 0, 1, 0]}))
    recipe = ["--epochs", "6", "--t0", "6", "--augment", "none", "--batch-size", "32"]
    assert narfx("train", "arch.json", "--data", "digits", "--init", "scratch", *recipe, "--out", "run")[0] == 0
    assert narfx("apply", "run/arch.json", "--out", "bundle")[0] == 0
    assert int8("bundle", "--data", "digits", "--out", "int8.onnx", "--images", "256") == ""
    before, after = (
        json.loads(narfx("evaluate", file, "--data", "digits", "--json")[1])["accuracy"]
        for file in ("bundle/model.onnx", "int8.onnx")
    )
    assert before > 0.85 and after > before - 0.03

    model = onnx.load(tmp_path / "int8.onnx")
    kinds = {node.op_type for node in model.graph.node}
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert "QuantizeLinear" in kinds and any(value.dtype == np.int8 and value.ndim == 4 for value in weights)
    assert not any(value.dtype == np.float32 and value.ndim == 4 for value in weights)  # no convolution was left out
    assert {entry.key for entry in model.metadata_props} >= {"narfx.mean", "narfx.vector"}

    assert "int8.onnx exists" in int8("bundle", "--data", "digits", "--out", "int8.onnx")
    (tmp_path / "arch.json").write_text(json.dumps({"model": MODEL, "input": [1, 8, 8], "vector": [1] * 6}))
    assert narfx("apply", "arch.json", "--out", "fresh")[0] == 0
    assert "how images are normalised" in int8("fresh", "--data", "digits", "--out", "other.onnx")
    assert not (tmp_path / "other.onnx").exists()
