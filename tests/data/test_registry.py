"""A form of data source that a user registers: it works wherever a source is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.data.arrays import Source, from_arrays
from narfx.data.parts import Shape
from narfx.data.registry import register_source, unregister_source
from narfx.errors import UsageError
from narfx.inputs.data_ref import DataRef
from narfx.tasks import load_data

MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"


def read_stack(ref: DataRef, shape: Shape, limit: int) -> Source:
    """Images (N, H, W) in a file of NumPy; the label of image i is i modulo 10, or modulo the name."""
    images = np.load(ref.place)
    return from_arrays({"x_train": images, "y_train": np.arange(len(images)) % int(ref.name or 10)}, str(ref))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    return tmp_path


@pytest.fixture
def stack(place: Path) -> Iterator[str]:
    register_source("stack", read_stack)
    yield "stack:images.npy"
    unregister_source("stack")


@pytest.fixture
def suffix() -> Iterator[str]:
    register_source(".NPY", read_stack, form="a .npy of images")
    yield "a .npy of images"
    unregister_source(".npy")


def test_a_scheme_is_read_with_its_path(place: Path, stack: str) -> None:
    data = load_data(stack, (1, 8, 8))
    assert (len(data.classes), len(data.train) + len(data.val), data.name) == (10, 60, stack)
    assert len(load_data("digits", (1, 8, 8), val_data=stack).val) == 60


def test_a_training_reads_it_and_finds_the_path_from_another_folder(
    stack: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train = ["train", MODEL, "--input", "1,8,8", "--init", "scratch", "--epochs", "1", "--device", "cpu"]
    assert run_app(app, [*train, "--data", stack, "--out", "runs/one", "-q"]) == 0
    assert json.loads((place / "runs" / "one" / "config.json").read_text())["data"] == "stack:../../images.npy"
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    again = ["train", "--config", "../runs/one/config.json", "--out", "two", "-q", "--json"]
    capfd.readouterr()
    assert run_app(app, again) == 0, capfd.readouterr().err


def test_a_scheme_may_take_a_name(place: Path) -> None:
    register_source("modulo", read_stack, takes_name=True)
    try:
        assert len(load_data("modulo:3:images.npy", (1, 8, 8)).classes) == 3
    finally:
        unregister_source("modulo")


def test_a_suffix_is_read_in_capitals_too(place: Path, suffix: str) -> None:
    Path("images.npy").rename("IMAGES.NPY")
    assert len(load_data("IMAGES.NPY", (1, 8, 8)).classes) == 10
    with pytest.raises(UsageError, match=r"there is no file gone\.npy"):
        load_data("gone.npy", (1, 8, 8))


def test_messages_list_what_is_registered_and_nothing_else(place: Path, stack: str, suffix: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_data("unknown", (1, 8, 8))
    assert all(form in str(caught.value) for form in ("stack:PATH", suffix, "digits", "torchvision:NAME:ROOT"))
    unregister_source("stack")
    with pytest.raises(UsageError) as caught:
        load_data(stack, (1, 8, 8))
    assert "stack:PATH" not in str(caught.value)
    register_source("stack", read_stack)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("digits", "source_exists"),
        (".TAR", "source_exists"),
        ("module", "source_exists"),
        ("a:b", "source_name"),
        ("", "source_name"),
        ("..h5", "source_name"),
    ],
)
def test_a_name_that_cannot_be_had_is_refused(name: str, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        register_source(name, read_stack)
    assert caught.value.kind == kind
