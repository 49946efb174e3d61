"""Images smaller than a network's input: each verb refuses them for every kind of file, until ``--input`` asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_faces import write_bin

from narfx.bundle import bundle
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.space.architecture import Architecture
from narfx.verbs.train import TrainConfig, train

NET = """
from torch import nn

INPUT_SHAPE = (3, 16, 16)


def make(outputs=2):
    convs = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs))
"""
QUICKLY = ["--epochs", "1", "--batch-size", "8"]
TARGETS = ("arch.json", "bundle", "run", "bundle/model.onnx")


def write_images(root: Path, side: int, odd: int | None = None, count: int = 6) -> None:
    """Two classes of square images; the fourth of each has another side where one is given."""
    rng = np.random.default_rng(side)
    for name, number in ((name, number) for name in "ab" for number in range(count)):
        (root / name).mkdir(parents=True, exist_ok=True)
        wide = odd if odd is not None and number == 3 else side
        Image.fromarray(rng.integers(0, 256, (wide, wide, 3), dtype=np.uint8)).save(root / name / f"{number}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 16x16 and of 8x8, and each file that states 3x16x16."""
    root = tmp_path_factory.mktemp("sizes")
    (root / "net.py").write_text(NET)
    write_images(root / "right", 16)
    write_images(root / "small", 8)
    write_images(root / "mixed", 16, odd=15)
    write_bin(root / "faces.bin", 40)
    Architecture(model="net.py:make", vector=(0,), input=(3, 16, 16)).save(root / "arch.json")
    config = TrainConfig(target="arch.json", data="right", epochs=1, batch_size=8)
    train(config, root / "run", relative_to=root)
    bundle.apply(root / "run/arch.json", root / "bundle")
    return root


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(place)

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = run_app(app, [*arguments, "--json", "--quiet"])
        return code, json.loads(capfd.readouterr().out)

    return run


@pytest.mark.parametrize("target", TARGETS)
def test_evaluate_enlarges_on_request_only(command: Any, target: str) -> None:
    assert command("evaluate", target, "--data", "right")[0] == 0
    for data, side in (("small", 8), ("mixed", 15)):
        code, found = command("evaluate", target, "--data", data)
        assert (code, found["error"]["kind"]) == (2, "small_images")
        assert found["error"]["message"].startswith(f"{data} has images of {side}x{side}, smaller than the 16x16 that")
        assert "add --input 3,16,16 to enlarge them" in found["error"]["message"]
        code, found = command("evaluate", target, "--data", data, "--input", "3,16,16")
        assert code == 0 and found["images"] == 12


@pytest.mark.parametrize(
    "verb", [["train", "arch.json"], ["train", "arch.json", "--base"], ["compare", "arch.json", "--seeds", "1"]]
)
def test_training_enlarges_on_request_only(command: Any, verb: list[str], tmp_path: Path) -> None:
    for option in (["--data", "small"], ["--data", "right", "--val-data", "mixed"]):
        code, found = command(*verb, *option, *QUICKLY, "--out", str(tmp_path / "new"))
        assert (code, found["error"]["kind"]) == (2, "small_images") and not (tmp_path / "new").exists()
        assert "16x16 that arch.json takes, and" in found["error"]["message"]
        assert "add --input 3,16,16 to enlarge them" in found["error"]["message"]
    asked = [*verb, "--data", "small", "--input", "3,16,16", *QUICKLY, "--out", str(tmp_path / "new")]
    assert command(*asked, "--dry-run")[0] == 0


def test_a_search_enlarges_on_request_only(command: Any, tmp_path: Path) -> None:
    search = ["search", "narfx:lresnet10e_ir?size=16&width=4", "--data", "small", "--quick", "--dry-run"]
    code, found = command(*search, "--out", str(tmp_path / "new"))
    assert (code, found["error"]["kind"]) == (2, "small_images")
    assert command(*search, "--input", "3,16,16", "--out", str(tmp_path / "new"))[0] == 0


def test_pairs_are_enlarged_on_request_only(command: Any, place: Path, tmp_path: Path) -> None:
    larger = tmp_path / "larger.json"
    Architecture(model=f"{place}/net.py:make?outputs=4", vector=(0,), input=(3, 40, 40)).save(larger)
    verify = ["compare", str(larger), "--task", "faces", "--verify", "faces.bin", *QUICKLY, "--dry-run"]
    write_images(tmp_path / "people", 40)
    for words in (
        ["evaluate", str(larger), "--data", "faces.bin"],
        [*verify, "--data", str(tmp_path / "people"), "--out", str(tmp_path / "new")],
    ):
        code, found = command(*words)
        assert (code, found["error"]["kind"]) == (2, "small_images")
        assert found["error"]["message"].partition(", smaller")[0].endswith("faces.bin has images of 16x16")
        assert command(*words, "--input", "3,40,40")[0] == 0


def test_the_parts_that_are_not_used_may_be_small(command: Any, place: Path, tmp_path: Path) -> None:
    for part, side in (("train", 8), ("test", 16)):
        write_images(tmp_path / part, side)
    trained = Architecture.load(place / "run/arch.json")
    assert trained.preprocessing is not None
    assert command("evaluate", "run", "--data", str(tmp_path))[0] == 0
    assert command("evaluate", "run", "--data", str(tmp_path), "--part", "train")[0] == 2
    assert command("evaluate", "arch.json", "--data", str(tmp_path))[0] == 2  # statistics are those of train
