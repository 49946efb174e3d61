"""Runs of train and compare: paths, inputs that must not be lost, weights that networks start from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import NarfxError, RunError, UsageError
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import read_weights, write_weights
from narfx.space.architecture import Architecture
from narfx.verbs.compare import CompareConfig, compare, resume_compare
from narfx.verbs.train import TrainConfig, resume_train, train

MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data, an architecture and the base's weights."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (200, 8, 8), dtype=np.uint8), np.arange(200) % 10
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (tmp_path / "arch.json").write_text(json.dumps({"model": MODEL, "vector": [1, 0, 2, 0, 3, 0], "input": [1, 8, 8]}))
    write_weights(load_model(MODEL, seed=7), tmp_path / "base.safetensors")
    return tmp_path


def test_compare_starts_every_network_from_the_weights_given(here: Path) -> None:
    """With a learning rate that moves nothing, what stands in the trained networks is what was given."""
    config = CompareConfig(
        target="arch.json", weights="base.safetensors", init="inherit", data="d.npz", epochs=1, seeds=1, randoms=1,
        lr=1e-30, lr_min=0, weight_decay=0,
    )  # fmt: skip
    rows = compare(config, here / "out")["rows"]
    given, _ = read_weights(here / "base.safetensors")
    for row in rows:
        state, _ = read_weights(here / "out" / "runs" / f"{row['name'].replace(' ', '-')}-0" / "weights.safetensors")
        assert torch.equal(state["conv1.weight"], given["conv1.weight"]), row["name"]
        assert torch.equal(state["fc.weight"], given["fc.weight"]), row["name"]


def test_inherit_without_weights_is_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="--weights"):
        compare(CompareConfig(target="arch.json", init="inherit", data="d.npz"), here / "out")


def test_the_base_of_a_search_starts_where_the_search_started(here: Path) -> None:
    """With a learning rate that moves nothing, what stands in the trained base is what the search knew."""
    refined = load_model(MODEL, seed=9)
    write_weights(refined, here / "refined.safetensors")
    still = {"data": "d.npz", "epochs": 1, "lr": 1e-30, "lr_min": 0, "weight_decay": 0}
    known = {"model": MODEL, "vector": [0] * 6, "input": [1, 8, 8], "weights": "refined.safetensors"}

    def write(**more: str) -> None:
        (here / "arch.json").write_text(json.dumps({**known, **more}))

    write(init="base", base_weights="base.safetensors")
    found = train(TrainConfig(target="arch.json", base=True, **still), "one")  # type: ignore[arg-type]
    given, state = (read_weights(here / name)[0] for name in ("base.safetensors", "one/weights.safetensors"))
    assert torch.equal(state["conv1.weight"], given["conv1.weight"])
    assert found["starting_weights"].startswith("base.safetensors")
    assert json.loads((here / "one/metrics.json").read_text())["starting_weights"] == found["starting_weights"]
    again = json.loads((here / "one/arch.json").read_text())
    assert (again["init"], again["base_weights"]) == ("base", "../base.safetensors")
    for more, words in (({}, "does not say which"), ({"init": "scratch"}, "started from scratch")):
        write(**more)
        with pytest.raises(UsageError, match=words) as caught:
            train(TrainConfig(target="arch.json", base=True, **still), "two")  # type: ignore[arg-type]
        assert caught.value.kind == "base_weights_unknown" and "--weights" in str(caught.value)
        assert not (here / "two").exists()
    scratch = TrainConfig(target="arch.json", base=True, init="scratch", seed=4, **still)  # type: ignore[arg-type]
    assert train(scratch, "two")["starting_weights"] == "random, seed 4"


def test_a_run_resumes_from_another_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in a run start at the run, and what changed outside since does not matter."""
    config = TrainConfig(target="arch.json", weights="base.safetensors", data="d.npz", epochs=1)
    first = train(config, "runs/one")
    (here / "arch.json").write_text("changed")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    (here / "runs" / "one" / "metrics.json").unlink()  # else the result is read, and nothing resumes
    assert resume_train("../runs/one")["val"] == first["val"]
    text = (here / "runs" / "one" / "arch.json").read_text()
    assert str(here) not in text and json.loads(text)["metrics"]["data"] == "d.npz"


def test_a_comparison_keeps_its_architecture(here: Path) -> None:
    config = CompareConfig(target="arch.json", data="d.npz", epochs=1, seeds=1, randoms=0)
    first = compare(config, "cmp")
    (here / "arch.json").write_text(json.dumps({"model": MODEL, "vector": [0] * 6, "input": [1, 8, 8]}))
    (here / "cmp" / "comparison.json").unlink()
    assert resume_compare("cmp")["rows"] == first["rows"]


def test_overwrite_does_not_remove_what_the_command_reads(here: Path) -> None:
    train(TrainConfig(target="arch.json", data="d.npz", epochs=1), "run")
    with pytest.raises(UsageError, match="would be replaced"):
        train(TrainConfig(target="run/arch.json", data="d.npz", epochs=1), "run", overwrite=True)
    assert (here / "run" / "arch.json").is_file() and (here / "run" / "weights.safetensors").is_file()


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_training_that_diverges_ends_with_its_own_exit_code(here: Path, epochs: int) -> None:
    config = TrainConfig(target="arch.json", data="d.npz", epochs=epochs, lr=1e30, batch_size=5000, init="scratch")
    with pytest.raises(RunError) as caught:
        train(config, "run")
    assert caught.value.exit_code == 7 and not (here / "run" / "metrics.json").exists()


def test_a_model_that_changed_under_a_run_is_refused(here: Path) -> None:
    source = "from torch import nn\nmodel = nn.Sequential(nn.Flatten(), nn.Linear(64, {0}), nn.Linear({0}, 10))\n"
    (here / "net.py").write_text(source.format(8))
    train(TrainConfig(target="net.py", input=(1, 8, 8), data="d.npz", epochs=1, init="scratch"), "run")
    (here / "net.py").write_text(source.format(9))
    (here / "run" / "metrics.json").unlink()  # of a finished run the result is read, and nothing else
    with pytest.raises(UsageError, match="has changed"):
        resume_train("run")


def test_what_a_network_cannot_train_on_is_said_first(here: Path) -> None:
    (here / "net.py").write_text(
        "from torch import nn\n"
        "def double(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()\n"
        "def narrow():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 10))\n"
        "def flat(): return nn.Conv2d(1, 10, 8)\n"
        "def few(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))\n"
    )
    for factory, kind in (
        ("double", "dtype"),
        ("narrow", "batch_size"),
        ("flat", "outputs"),
        ("few", "too_few_outputs"),
    ):
        config = TrainConfig(target=f"net.py:{factory}", input=(1, 8, 8), data="d.npz", epochs=1, batch_size=1)
        with pytest.raises(NarfxError) as caught:
            train(config, "run")
        assert caught.value.kind == kind and not (here / "run").exists()


def test_without_an_input_every_verb_takes_the_size_of_the_images(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also of an arch.json by hand; it is said, and a run keeps it in what it writes."""
    layers = "nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)"
    (here / "own.py").write_text(f"from torch import nn\n\ndef make():\n    return nn.Sequential({layers})\n")
    (here / "hand.json").write_text('{"model": "own.py:make", "vector": [1]}')
    search = "search own.py:make --epochs 2 --pretrain-epochs 1 --steps 1 --finalists 1 --budget none --out s"
    for command in (
        search, "train own.py:make --epochs 1 --out t", "train hand.json --epochs 1 --out h",
        "compare hand.json --epochs 1 --seeds 1 --randoms 0 --out c", "evaluate own.py:make", "evaluate hand.json",
    ):  # fmt: skip
        assert run_app(app, [*command.split(), "--data", "d.npz"]) == 0
        assert "input 1x8x8: the size of the images" in capfd.readouterr().err
    for run in ("s", "h"):
        assert Architecture.load(here / run / "arch.json").input == (1, 8, 8)
    assert run_app(app, ["apply", "hand.json", "--out", "b"]) == 2
    assert 'add "input": [channels, height, width] to the arch.json' in capfd.readouterr().err
    assert run_app(app, ["train", "s/arch.json", "--data", "d.npz", "--input", "1,9,9", "--out", "n"]) == 2
    assert "is for inputs of 1x8x8, not 1x9x9" in capfd.readouterr().err
