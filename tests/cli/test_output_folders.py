"""What --out and --overwrite may replace, as a user meets it: nothing that is the user's, and nothing too early."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import Run, in_process

NET = """
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""
TRAIN = ["--input", "1,8,8", "--epochs", "1", "-q", "--overwrite", "--out"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data and a run in which the user keeps files too."""
    home = tmp_path_factory.mktemp("home")
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8)
    np.savez(home / "d.npz", x_train=images, y_train=np.arange(30) % 3)
    (home / "net.py").write_text(NET)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_is_replaced_only_by_a_whole_one(home: Path, narfx: Run) -> None:
    assert narfx("train", "net.py:make", "--data", "d.npz", *TRAIN, "out")[0] == 0
    for name in ("net.py", "d.npz"):
        shutil.copy(home / name, home / "out")
    (home / "link.npz").symlink_to("out/d.npz")
    before = digests(home)
    inputs = (
        "out/net.py:make --data d.npz",
        "./out/../out/net.py:make --data d.npz",
        "out.net:make --data d.npz",
        "net.py:make --data out/d.npz",
        "net.py:make --data link.npz",
        "net.py:make --data out.net:make",
        "net.py:make --data d.npz --val-data out/d.npz",
        "net.py:make --data d.npz --weights out/weights.safetensors",
        "net.py:make --data d.npz --config out/config.json",
    )
    for arguments in inputs:
        code, _, stderr = narfx("train", *arguments.split(), *TRAIN, "out")
        assert code == 2 and "which would be replaced: choose another folder" in stderr, arguments
    for arguments in ("--lr inf", "--weight-decay inf", "--augment x", "--task-option a=1", "--weights net.py"):
        assert narfx("train", "net.py:make", "--data", "d.npz", *arguments.split(), *TRAIN, "out")[0] == 2
    assert narfx("train", "net.py:make", "--data", "d.npz", "--lr", "1e38", "--batch-size", "2", *TRAIN, "out")[0] == 7
    assert digests(home) == before
    assert narfx("train", "net.py:make", "--data", "d.npz", "--seed", "5", *TRAIN, "out")[0] == 0
    assert json.loads((home / "out" / "config.json").read_text())["seed"] == 5
    assert sorted(path.name for path in home.iterdir()) == ["d.npz", "link.npz", "net.py", "out"]


def test_what_the_model_imports_is_not_replaced_either(home: Path) -> None:
    """No option names it; a process of its own, because what is imported stays so."""
    train = [sys.executable, "-m", "narfx", "train", "--data", "d.npz", *TRAIN, "out"]
    assert subprocess.run([*train, "net.py:make"], timeout=100).returncode == 0
    shutil.copy(home / "net.py", home / "out" / "parts_of_mine.py")
    (home / "whole.py").write_text("import sys\nsys.path.insert(0, 'out')\nfrom parts_of_mine import make\n")
    before = digests(home)
    done = subprocess.run([*train, "whole.py:make"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "parts_of_mine.py is in out, which would be replaced" in done.stderr
    kept = digests(home)
    assert {name: kept[name] for name in before} == before


def test_what_narfx_did_not_make_is_never_replaced(home: Path, narfx: Run) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "config.json").write_text('{"a": "model of mine"}')
    (home / "arch.json").write_text('{"model": "net.py:make", "vector": [], "input": [1, 8, 8]}')
    before = digests(home)
    for verb in ("train net.py:make --data d.npz --input 1,8,8", "compare arch.json --data d.npz", "apply arch.json"):
        code, _, stderr = narfx(*verb.split(), "--out", "mine", "--overwrite")
        assert code == 2 and "narfx did not make the folder mine, so --overwrite does not replace it" in stderr
    evaluate = ("evaluate", "net.py:make", "--input", "1,8,8", "--data", "d.npz", "-q", "--overwrite", "--out")
    for out, cause in (("/dev/full", "is a device"), ("d.npz", "is an input"), ("net.py", "is an input")):
        code, _, stderr = narfx(*evaluate, out)
        assert code == 2 and cause in stderr
    assert digests(home) == before
    (home / "link.json").symlink_to("result.json")
    for _ in range(2):
        assert narfx(*evaluate, "link.json")[0] == 0
    assert (home / "link.json").is_symlink() and "accuracy" in json.loads((home / "result.json").read_text())
