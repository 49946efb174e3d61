"""The names of several networks on one command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from narfx.errors import UsageError
from narfx.verbs.named_networks import name_networks


def test_names_are_given_or_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").mkdir()
    given = [
        "wide=narfx:darts?cells=3", "narfx:darts?cells=3&channels=4", "net.py", "net.py:Net", "run/arch.json",
        "bundle", "x.json", "./a=b.json", "torchvision:resnet18",
    ]  # fmt: skip
    assert name_networks(given) == {
        "wide": "narfx:darts?cells=3",
        "darts-cells-3-channels-4": "narfx:darts?cells=3&channels=4",
        "net": "net.py",
        "Net": "net.py:Net",
        "run": "run/arch.json",
        "bundle": "bundle",
        "x": "x.json",
        "a-b": "./a=b.json",
        "resnet18": "torchvision:resnet18",
    }


def test_equal_names_get_numbers_and_given_ones_are_refused() -> None:
    assert list(name_networks(["net.py"] * 3)) == ["net", "net_2", "net_3"]
    with pytest.raises(UsageError, match="two networks are called a"):
        name_networks(["a=net.py", "a=other.py"])
    with pytest.raises(UsageError, match="cannot read the model reference"):
        name_networks(["some:"])
