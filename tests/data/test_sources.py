"""What ``--data`` may name: digits, torchvision's sets, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_data import load_digits, numbered, numbers, refused

from narfx.tasks import ImageData, load_data


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_digits()


def test_digits_hold_out_one_fixed_test_part() -> None:
    parts = [load_data("digits", (1, 8, 8), seed=seed) for seed in (0, 1)]
    tests = [data.test.images(torch.arange(len(data.test))) for data in parts if data.test is not None]
    assert torch.equal(tests[0], tests[1])
    data = parts[0]
    assert (len(data.train), len(data.val), len(tests[0])) == (1299, 143, 355)
    assert data.augment == "crop"
    assert data.val_from_train
    rows = [part.images(torch.arange(len(part))).flatten(1) for part in (data.train, data.val, data.test) if part]
    assert int(torch.cat(rows).max()) == 255
    assert len(torch.unique(torch.cat(rows), dim=0)) == 1797  # no image is in two parts


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.mark.parametrize(
    ("name", "folder", "augment"), [("mnist", "MNIST", "crop"), ("fashion_mnist", "FashionMNIST", "crop-flip")]
)
def test_torchvision_sets_from_their_files(tmp_path: Path, name: str, folder: str, augment: str) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for part, first, count in (("train", 0, 40), ("t10k", 10_000, 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte", numbered(count, first))
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    data = load_data(f"torchvision:{name}:{tmp_path}", (3, 4, 4))
    assert sorted(numbers(data.train) + numbers(data.val)) == list(range(40))
    assert numbers(data.test) == list(range(10_000, 10_020))
    assert len(data.classes) == 10
    assert data.mean == ((0.1307,) if name == "mnist" else (0.2860,)) * 3
    assert data.augment == augment


def test_torchvision_refusals(tmp_path: Path) -> None:
    for name, folder in (("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python"), ("mnist", "MNIST/raw")):
        error = refused(f"torchvision:{name}:{tmp_path}")
        assert error.kind == "missing_data" and folder in str(error)
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded
    for source in ("torchvision:cifar10", "torchvision:imagenet:/x", "torchvision:"):
        assert refused(source).kind == "unknown_source"


def test_unknown_sources(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_text("")
    assert refused(tmp_path / "set.zip").kind == "unknown_source"
    for source in ("imagenet", ""):
        error = refused(source)
        assert error.kind == "unknown_source" and "digits" in str(error)


def test_importing_tasks_imports_no_heavy_library() -> None:
    code = """
        import sys, narfx.data.sources, narfx.tasks
        print(sorted({'torchvision', 'sklearn', 'onnx', 'scipy'} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_fashion_mnist(data_folder: Path) -> None:
    data = load_data(str(data_folder / "fashion_mnist.npz"), (3, 28, 28), fraction=0.1)
    assert (len(data.train), len(data.val), len(data.test or ())) == (5400, 600, 10_000)
    assert data.mean == pytest.approx((0.2860,) * 3, abs=0.005)
    assert data.std == pytest.approx((0.3530,) * 3, abs=0.005)
    assert torch.bincount(data.val.labels).tolist() == [60] * 10
    assert "mean and standard deviation: of 5,400 training images" in data.notes
