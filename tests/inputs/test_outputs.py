"""A model's number of outputs, set for the classes of other data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from narfx.errors import UsageError
from narfx.inputs.outputs import load_with_outputs

MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"


def test_outputs_of_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an argument of the factory, else by a fresh last layer, else a refusal."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from torch import nn\n"
        "def plain(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))\n"
        "def ends_in_norm(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5))\n"
        "def convolved(): return nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())\n"
    )
    images = torch.zeros(2, 1, 8, 8)
    for reference, words in ((MODEL, "num_classes=7"), ("net.py:plain", "3, replaced by a new one with 7 outputs")):
        model, note = load_with_outputs(reference, 7, (1, 8, 8))
        assert model(images).shape == (2, 7) and words in note
    model, note = load_with_outputs("narfx:lresnet10e_ir?size=16&width=2", 7, (3, 16, 16))
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 7) and "embedding=7" in note
    assert load_with_outputs(MODEL, 10, (1, 8, 8))[1] == ""
    for factory in ("ends_in_norm", "convolved"):
        with pytest.raises(UsageError, match="cannot have 7 outputs") as caught:
            load_with_outputs(f"net.py:{factory}", 7, (1, 8, 8))
        assert caught.value.kind == "outputs"
