"""A run moves with what it names: with every path set, it resumes elsewhere and its configuration starts another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_faces import NET, people, write_bin, write_folder

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import UsageError
from narfx.inputs.model_ref import load_model
from narfx.inputs.paths import find, named_paths
from narfx.inputs.weights import write_weights
from narfx.search import SearchConfig, resume
from narfx.search import run as search
from narfx.support.path_fields import path_fields
from narfx.verbs.compare import CompareConfig, compare, resume_compare
from narfx.verbs.train import TrainConfig, resume_train, train

TINY = """
from torch import nn
INPUT_SHAPE = (1, 8, 8)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.a(self.stem(x).relu()).relu().mean((2, 3)))
"""
MINE = """
from torch import nn
import narfx
narfx.register_operator(narfx.Operator("mine", lambda site: nn.AvgPool2d(3, site.stride, 1)))
"""

OWN = """
import torch
from torchvision.transforms import v2
def adam(parameters, lr): return torch.optim.Adam(parameters, lr)
def falling(lr): return lambda time: lr / (1 + time)
def flip(): return v2.RandomHorizontalFlip()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with everything that a configuration can name, in folders of its own."""
    home = tmp_path / "home"
    for name in ("nets", "data", "found"):
        (home / name).mkdir(parents=True)
    (home / "nets" / "net.py").write_text(TINY)
    (home / "nets" / "mine.py").write_text(MINE)
    (home / "nets" / "own.py").write_text(OWN)
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("val", 20)):
        images = rng.integers(0, 255, (count, 8, 8), dtype=np.uint8)
        np.savez(home / "data" / f"{name}.npz", x_train=images, y_train=np.arange(count) % 2)
    write_weights(load_model(str(home / "nets" / "net.py")), home / "nets" / "w.safetensors")
    arch = {
        "model": "../nets/net.py",
        "operators": ["base", "mine"],
        "operator_files": ["../nets/mine.py"],
        "vector": [1],
    }
    for name in ("one", "two"):
        (home / "found" / f"{name}.json").write_text(json.dumps({**arch, "weights": "../nets/w.safetensors"}))
    monkeypatch.chdir(home)
    return home


def elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project under another name, the working folder not in it."""
    moved = home.with_name("moved")
    home.rename(moved)
    (moved.parent / "empty").mkdir()
    monkeypatch.chdir(moved.parent / "empty")
    return moved


def check_all_set(config: Any, unset: frozenset[str] = frozenset()) -> None:
    """Every path field has a value, so that none can be forgotten here."""
    assert {name for name in path_fields(type(config)) if not getattr(config, name)} == unset


def check_paths(run: Path, schema: Any) -> None:
    """What the run's configuration names is there, seen from the run, and no path of it is absolute."""
    config = schema.model_validate_json((run / "config.json").read_text())
    for path in named_paths(config, run):
        assert path.exists(), path
    assert str(run.parent) not in (run / "config.json").read_text()


CODE: dict[str, Any] = {
    "optimizer": "nets/own.py:adam",
    "lr": 0.01,
    "schedule": "nets/own.py:falling",
    "augment": "nets/own.py:flip",
}
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 20, "data": "data/train.npz", "val_data": "data/val.npz", **CODE}


def test_a_search(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchConfig(
        model="nets/net.py", weights="nets/w.safetensors", operators=("base", "mine"), operator_files=("nets/mine.py",),
        latency_file="data/latency.json", budget="none", steps=2, reward_images=20, **QUICK,
    )  # fmt: skip
    check_all_set(config)
    first = search(config, "runs/one")
    moved = elsewhere(home, monkeypatch)
    check_paths(moved / "runs" / "one", SearchConfig)
    (moved / "runs" / "one" / "result.json").unlink()  # of a finished run the result is read, and nothing else
    assert resume(moved / "runs" / "one")["accuracy"] == first["accuracy"]
    assert run_app(app, ["search", "--config", str(moved / "runs/one/config.json"), "--out", "again", "--quiet"]) == 0
    check_paths(Path("again").absolute(), SearchConfig)


def test_a_training(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: dict[str, Any] = {"teacher_model": "nets/net.py", "teacher_weights": "nets/w.safetensors"}
    config = TrainConfig(target="found/one.json", weights="nets/w.safetensors", **taught, **QUICK)
    check_all_set(config)
    first = train(config, "runs/one")
    moved = elsewhere(home, monkeypatch)
    shutil.rmtree(moved / "found")  # the run has its own copy
    check_paths(moved / "runs" / "one", TrainConfig)
    (moved / "runs" / "one" / "metrics.json").unlink()
    assert resume_train(moved / "runs" / "one")["val"] == first["val"]
    assert run_app(app, ["train", "--config", str(moved / "runs/one/config.json"), "--out", "again", "--quiet"]) == 0
    again = json.loads(Path("again/arch.json").read_text())
    assert find(again["model"], Path("again")).samefile(moved / "nets" / "net.py")


def test_a_training_of_a_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(TrainConfig(target="nets/net.py:Net", weights="nets/w.safetensors", **QUICK), "runs/one")
    moved = elsewhere(home, monkeypatch)
    check_paths(moved / "runs" / "one", TrainConfig)
    (moved / "runs" / "one" / "metrics.json").unlink()
    assert resume_train(moved / "runs" / "one")["val"] == first["val"]


def test_a_comparison(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "nets" / "faces.py").write_text(NET)
    write_folder(home / "data" / "faces", 3, 8)
    images, labels = people(3, 12)
    np.savez(home / "data" / "faces.npz", x_train=images, y_train=labels)
    np.savez(home / "data" / "others.npz", x_train=images[:9], y_train=labels[:9])
    write_bin(home / "data" / "pairs.bin", 20)
    weights = load_model(str(home / "nets" / "faces.py") + ":Net")
    write_weights(weights, home / "nets" / "faces.safetensors")
    for name, vector in (("one", [1, 0]), ("two", [0, 1])):
        values = {"model": "../nets/faces.py:Net", "vector": vector, "input": [3, 16, 16]}
        (home / "found" / f"{name}.json").write_text(json.dumps(values))
    config = CompareConfig(
        target="found/one.json", further=("second=found/two.json",), weights="nets/faces.safetensors", init="inherit",
        task="faces", verify="data/pairs.bin", folds=2, seeds=1, randoms=0, epochs=1, batch_size=9,
        data="data/faces.npz", val_data="data/others.npz", teacher_model="nets/faces.py:Net",
        teacher_weights="nets/faces.safetensors", **CODE,
    )  # fmt: skip
    check_all_set(config, frozenset({"pairs", "prepared"}))  # a .bin has its own list, and no search is named
    first = compare(config, "runs/one")
    moved = elsewhere(home, monkeypatch)
    shutil.rmtree(moved / "found")
    check_paths(moved / "runs" / "one", CompareConfig)
    (moved / "runs" / "one" / "comparison.json").unlink()
    assert resume_compare(moved / "runs" / "one")["rows"] == first["rows"]
    assert run_app(app, ["compare", "--config", str(moved / "runs/one/config.json"), "--out", "again", "--quiet"]) == 0
    rows = json.loads(Path("again/comparison.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["base", "one", "second"]


@pytest.mark.parametrize("named", ["weights", "data", "operator_files"])
def test_what_a_run_reads_is_not_replaced(home: Path, named: str) -> None:
    """An input that lies in the output is refused, whichever field names it."""
    (home / "run").mkdir()
    for file in ("nets/w.safetensors", "data/train.npz", "nets/mine.py"):
        shutil.copy(home / file, home / "run")
    fields: dict[str, dict[str, Any]] = {
        "weights": {"weights": "run/w.safetensors"},
        "data": {"data": "run/train.npz"},
        "operator_files": {"operators": ("base", "mine"), "operator_files": ("run/mine.py",)},
    }
    config = SearchConfig.model_validate({"model": "nets/net.py", "budget": "none", **QUICK, **fields[named]})
    with pytest.raises(UsageError, match="would be replaced"):
        search(config, "run", overwrite=True)
    assert len(list((home / "run").iterdir())) == 3


def test_a_model_in_the_output_is_not_replaced(home: Path) -> None:
    (home / "run").mkdir()
    shutil.copy(home / "nets" / "net.py", home / "run")
    with pytest.raises(UsageError, match="would be replaced"):
        train(TrainConfig(target="run/net.py:Net", **QUICK), "run", overwrite=True)
    assert (home / "run" / "net.py").is_file()
