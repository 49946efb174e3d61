"""A run knows again what it wrote and what it read: damage and changes are refused, and the message says which."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_search import Killed, same
from torch.utils import _pytree as pytree

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.data.image_data import load_data
from narfx.errors import UsageError
from narfx.inputs.weights import read_weights
from narfx.latency.table import LatencyFile, LatencyTable, Setting
from narfx.runs.events import read_events
from narfx.runs.folder import RunFolder
from narfx.runs.origin import reconfigure, resumed_config
from narfx.search import SearchConfig, resume, run
from narfx.space.architecture import Architecture
from narfx.space.scores import ScoreTable
from narfx.support.seals import EditedFileWarning, read_sealed

FLIPS = 30
NET = """
from layers import block
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(block(1, 8), block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
"""
LAYERS = """
from torch import nn


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())
"""
CONFIG: dict[str, Any] = {
    "model": "net.py", "input": (1, 8, 8), "data": "data.npz", "batch_size": 16, "init": "scratch", "epochs": 3,
    "pretrain_epochs": 1, "steps": 2, "finalists": 2, "augment": "none", "budget": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, a whole search, and one that was broken off before its end."""
    home = tmp_path_factory.mktemp("home")
    (home / "net.py").write_text(NET)
    (home / "layers.py").write_text(LAYERS)
    draw = np.random.default_rng(0)
    np.savez(home / "data.npz", x_train=draw.integers(0, 256, (48, 8, 8), np.uint8), y_train=np.arange(48) % 3)
    config = SearchConfig.model_validate(CONFIG)
    run(config, home / "whole", relative_to=home)
    events: list[object] = []

    def stop(event: object) -> None:
        events.append(event)
        if len(events) == 10:
            raise Killed

    with pytest.raises(Killed):
        run(config, home / "cut", relative_to=home, subscribers=[stop])
    setting = Setting(onnxruntime="1", cpu="a")
    LatencyFile(tables=(LatencyTable(setting=setting, operators={"a": 1.25}),)).save(home / "latency.json")
    (home / "scores.json").write_text(json.dumps({"measured": "", "images": 1, "fingerprint": "", "slots": []}))
    ScoreTable.load(home / "scores.json").save(home / "scores.json")
    return home


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The same folder, to be changed."""
    return Path(shutil.copytree(home, tmp_path / "home"))


def checkpoint(path: Path) -> Any:
    return RunFolder.open(path.parent).load()


READERS: dict[str, Callable[[Path], Any]] = {
    "cut/checkpoint.pt": checkpoint,
    "cut/events.jsonl": lambda path: list(read_events(path.parent)),
    "cut/config.json": lambda path: resumed_config(path.parent, SearchConfig),
    "cut/origin.json": lambda path: resumed_config(path.parent, SearchConfig),
    "whole/evaluations.json": lambda path: read_sealed(path, "delete it"),
    "whole/arch.json": Architecture.load,
    "whole/weights.safetensors": lambda path: read_weights(path)[0],
    "latency.json": LatencyFile.load,
    "scores.json": ScoreTable.load,
}


def equal(a: Any, b: Any) -> bool:
    (left, shape), (right, other) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return shape == other and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_refused_or_said_or_changes_nothing(copy: Path, name: str) -> None:
    path, read = copy / name, READERS[name]
    content, events = path.read_bytes(), (copy / "cut" / "events.jsonl").read_bytes()
    right, refused = read(path), 0
    draw = random.Random(name)
    for _ in range(FLIPS):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (copy / "cut" / "events.jsonl").write_bytes(events)
        path.write_bytes(flipped)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", EditedFileWarning)
                assert equal(read(path), right)
        except EditedFileWarning:
            refused += 1
        except (UsageError, ValueError) as error:  # the analysis turns the ValueError of a line into its own
            refused += 1
            assert not isinstance(error, UsageError) or path.name in str(error) or path.parent.name in str(error)
    assert refused > FLIPS / 2


def test_an_edited_architecture_is_said(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arch, arguments = copy / "whole" / "arch.json", ["evaluate", str(copy / "whole"), "--data", str(copy / "data.npz")]
    assert run_app(app, arguments) == 0
    assert "warning" not in capfd.readouterr().err
    edit(arch, '"seed": 0', '"seed": 1')
    assert run_app(app, arguments) == 0
    assert capfd.readouterr().err.startswith(f"narfx: warning: {arch} was changed after narfx wrote it")


def test_events_that_changed_stop_a_run_unless_they_are_deleted(copy: Path) -> None:
    events = copy / "cut" / "events.jsonl"
    events.write_text(events.read_text().replace('"epoch": 1', '"epoch": 2', 1))
    with pytest.raises(UsageError, match="delete it to go on"):
        resume(copy / "cut")
    events.unlink()
    resume(copy / "cut")
    assert (copy / "cut" / "arch.json").read_bytes() == (copy / "whole" / "arch.json").read_bytes()


@pytest.mark.parametrize("last", ["damaged", "missing"])
def test_the_previous_checkpoint_gives_the_same_result(
    copy: Path, last: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path, arguments = copy / "cut" / "checkpoint.pt", ["search", "--resume", "--out", str(copy / "cut"), "--quiet"]
    if last == "missing":  # as a kill between the two renames of a save leaves it
        path.unlink()
        assert run_app(app, arguments) == 0
    else:
        path.write_bytes(path.read_bytes()[:-100])
        assert run_app(app, arguments) == 2
        assert "--checkpoint previous" in capfd.readouterr().err
        assert run_app(app, [*arguments, "--checkpoint", "previous"]) == 0
    same(copy / "cut", copy / "whole")


def test_a_previous_checkpoint_that_is_not_there(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (copy / "cut" / "checkpoint.previous.pt").unlink()
    with pytest.raises(UsageError, match=r"has no checkpoint\.previous\.pt"):
        resume(copy / "cut", previous=True)
    assert run_app(app, ["search", "net.py", "--out", str(copy / "new"), "--checkpoint", "previous"]) == 2


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def other_images(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays["x_train"][-1, -1, -1] ^= 1
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda home: edit(home / "cut/config.json", '"seed": 0', '"seed": 1'), "config.json says seed 1, .* with 0"),
        (lambda home: edit(home / "cut/config.json", '"lr": 0.05', '"lr": 0.1'), "config.json says lr 0.1"),
        (
            lambda home: edit(home / "net.py", "block(8, 8)", "block(8, 9), block(9, 8)"),
            r"net.py \(model\), the traced",
        ),
        (lambda home: edit(home / "layers.py", "nn.ReLU()", "nn.SiLU()"), r"net.py \(model\), the traced network"),
        (lambda home: other_images(home / "data.npz"), "the images or labels"),
        (lambda home: (home / "cut/origin.json").unlink(), "older version"),
    ],
    ids=["seed", "rate", "model", "its import", "data", "origin"],
)
def test_a_run_goes_on_only_with_what_it_began_with(copy: Path, change: Callable[[Path], None], said: str) -> None:
    change(copy)
    with pytest.raises(UsageError, match=said) as caught:
        resume(copy / "cut")
    assert caught.value.kind == "run_changed"


def test_a_configuration_that_narfx_changes_itself_is_no_change(copy: Path) -> None:
    folder, old = RunFolder.open(copy / "cut"), (copy / "cut/config.json").read_text()
    reconfigure(folder.path, epochs=5)
    assert resumed_config(folder.path, SearchConfig).epochs == 5
    (copy / "cut/config.json").write_text(old)  # as a kill in the midst of it leaves the run
    assert resumed_config(folder.path, SearchConfig).epochs == 3
    edit(copy / "cut/config.json", '"epochs": 3', '"epochs": 4')
    with pytest.raises(UsageError, match="epochs 4"):
        resumed_config(folder.path, SearchConfig)


def test_where_data_lie_is_no_change(tmp_path: Path) -> None:
    def digest(path: Path) -> str:
        return load_data(str(path), (3, 8, 8)).digest

    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(tmp_path / "images" / name)
    moved = Path(shutil.copytree(tmp_path / "images", tmp_path / "moved"))
    assert digest(moved) == digest(tmp_path / "images")
    (moved / "b/2.png").write_bytes((moved / "b/2.png").read_bytes() + b"\0")
    assert digest(moved) != digest(tmp_path / "images")


def test_weights_are_damaged_also_where_the_name_of_their_digest_is(copy: Path) -> None:
    path = copy / "whole" / "weights.safetensors"
    content = bytearray(path.read_bytes().replace(b"narfx.digest", b"narnx.dogest"))
    content[-2] ^= 64
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged"):
        read_weights(path)


def test_a_data_set_that_draws_its_images_has_the_digest_of_its_labels(tmp_path: Path) -> None:
    (tmp_path / "sets.py").write_text(
        "import torch\n\n\nclass Drawn:\n    def __len__(self):\n        return 12\n\n"
        "    def __getitem__(self, index):\n        if index >= 12:\n            raise IndexError\n"
        "        return torch.rand(1, 8, 8), index % 3\n\n\ndef sets():\n    return Drawn(), None\n"
    )
    first, second = (load_data(f"{tmp_path}/sets.py:sets", (1, 8, 8)).digest for _ in range(2))
    assert first == second
