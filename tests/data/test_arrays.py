"""Images in arrays: names, colours, sizes, statistics, and files that are no arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import Arrays, arrays, npz, numbered, refused

from narfx.tasks import batches, load_data


def test_arrays_with_names_column_labels_and_no_test_part(tmp_path: Path) -> None:
    values = {
        "x_train": numbered(6, channels=3),
        "y_train": np.arange(6, dtype=np.uint8)[:, None] % 2,
        "class_names": np.array(["cat", "dog"]),
    }
    data = load_data(npz(tmp_path, values), (3, 4, 4))
    assert data.classes == ("cat", "dog")
    assert data.test is None
    assert data.train.images(torch.tensor([0, 2])).shape == (2, 3, 4, 4)


def test_grey_is_repeated_and_colour_becomes_pillows_luminance(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (8, 9, 7, 3), dtype=np.uint8)
    labels = np.zeros(8, dtype=np.int64)
    held = {"x_val": colour, "y_val": labels}
    data = load_data(npz(tmp_path, {"x_train": colour, "y_train": labels, **held}), (1, 9, 7))
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colour])
    assert np.array_equal(data.train.images(torch.arange(8))[:, 0].numpy(), expected)
    assert any("luminance" in note for note in data.notes)
    grey = {"x_train": expected, "y_train": labels, "x_val": expected, "y_val": labels}
    repeated = load_data(npz(tmp_path, grey), (3, 9, 7)).train.images(torch.arange(8))
    assert all(np.array_equal(repeated[:, c].numpy(), expected) for c in range(3))


def test_arrays_and_files_are_resized_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 40, 30, 3), dtype=np.uint8)
    (tmp_path / "folder" / "only").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "folder" / "only" / f"{i}.png")
    labels = np.zeros(6, dtype=np.int64)
    for shape in ((3, 12, 16), (3, 64, 64), (1, 12, 16)):
        parts = [
            load_data(source, shape, val_fraction=0.2).train
            for source in (str(tmp_path / "folder"), npz(tmp_path, {"x_train": images, "y_train": labels}))
        ]
        a, b = (part.images(torch.arange(len(part))).int() for part in parts)
        assert a.shape == b.shape == (5, *shape)
        assert int((a - b).abs().max()) <= 2


def test_resizing_down_is_antialiased(tmp_path: Path) -> None:
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    values = {"x_train": np.stack([board] * 4), "y_train": np.zeros(4, dtype=np.int64)}
    images = load_data(npz(tmp_path, values), (1, 8, 8)).train.images(torch.tensor([0])).float()
    assert images.std() < 10  # a checkerboard becomes an even grey; picking pixels would keep black and white
    assert abs(float(images.mean()) - 127.5) < 3


def test_statistics_are_those_of_the_training_images_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {
        "x_train": rng.integers(0, 100, (50, 5, 6, 3), dtype=np.uint8) * np.array([1, 2, 1], dtype=np.uint8),
        "y_train": np.arange(50) % 5,
        "x_test": np.full((5, 5, 6, 3), 255, dtype=np.uint8),
        "y_test": np.arange(5),
    }
    data = load_data(npz(tmp_path, values), (3, 5, 6), fraction=0.5, val_fraction=0.3)
    used = data.train.images(torch.arange(len(data.train))).double() / 255
    assert data.mean == pytest.approx(used.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert data.std == pytest.approx(used.std((0, 2, 3), correction=0).tolist(), abs=1e-6)
    inputs = torch.cat([x for x, _ in batches(data.train, 7, data=data)])
    assert inputs.dtype == torch.float32
    assert inputs.mean((0, 2, 3)).abs().max() < 1e-5
    assert (inputs.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    exact = (used - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)
    assert (inputs - exact).abs().max() < 1e-5


def test_even_images_do_not_divide_by_zero(tmp_path: Path) -> None:
    values = {"x_train": np.full((4, 4, 4), 9, dtype=np.uint8), "y_train": np.zeros(4, dtype=np.int64)}
    data = load_data(npz(tmp_path, values), (1, 4, 4))
    assert all(torch.isfinite(x).all() for x, _ in batches(data.train, 2, data=data))


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ({"y_train": None}, "missing_key", "y_train is missing"),
        ({"x_train": None, "y_train": None}, "missing_key", "x_train is missing"),
        ({"y_test": None}, "missing_key", "y_test is missing"),
        ({"x_train": np.zeros((60, 4, 4), np.float32)}, "image_dtype", "float32"),
        ({"x_train": np.zeros((60, 16), np.uint8)}, "image_shape", "(60, 16)"),
        ({"x_train": np.zeros((60, 0, 4), np.uint8)}, "image_shape", "(60, 0, 4)"),
        ({"x_train": np.zeros((60, 3, 4, 4), np.uint8)}, "channels", "channels last"),
        ({"x_train": np.zeros((0, 4, 4), np.uint8), "y_train": np.zeros(0, np.int64)}, "empty_data", "no images"),
        ({"y_train": np.zeros(60)}, "label_dtype", "float64"),
        ({"y_train": np.zeros(60, bool)}, "label_dtype", "bool"),
        ({"y_train": np.zeros(59, np.int64)}, "label_shape", "(59,)"),
        ({"y_train": np.zeros((60, 3), np.int64)}, "label_shape", "(60, 3)"),
        ({"y_train": np.arange(60) % 3 - 1}, "label_range", "-1"),
        ({"y_train": np.full(60, 2**40)}, "label_range", str(2**40)),
        ({"y_train": np.full(60, 2**64 - 1, np.uint64)}, "label_range", str(2**64 - 1)),
        ({"y_train": np.arange(60) % 3 + 1}, "class_without_images", "class 0 of 4"),
        ({"y_train": np.arange(60) % 2 * 2}, "class_without_images", "class 1 of 3"),
        ({"y_test": np.arange(6)}, "classes_differ", "label 3"),
        ({"class_names": np.array(["a", "b"])}, "class_names", "2 class names"),
        ({"class_names": np.array(["a", "b", "b"])}, "class_names", "distinct"),
        ({"class_names": np.arange(3)}, "class_names", "strings"),
        ({"class_names": np.array(["a", "b", "c", "d"])}, "class_without_images", "class 3 (d)"),
        ({"y_train": np.array([0] + [1, 2] * 29 + [1])}, "too_few_images", "class 0 has a single"),
    ],
)
def test_array_refusals(tmp_path: Path, change: Arrays, kind: str, told: str) -> None:
    values = {key: value for key, value in {**arrays(), **change}.items() if value is not None}
    error = refused(npz(tmp_path, values))
    assert error.kind == kind
    assert told in str(error)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    class Loud:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "unpickled",))

    error = refused(npz(tmp_path, arrays(y_train=np.array([Loud()] * 60, dtype=object))))
    assert error.kind == "pickled_array" and "y_train" in str(error)
    assert not (tmp_path / "unpickled").exists()
    for content in (b"", b"text", b"PK\x03\x04broken", Path(npz(tmp_path, arrays())).read_bytes()[:300]):
        (tmp_path / "bad.npz").write_bytes(content)
        assert refused(tmp_path / "bad.npz").kind == "bad_npz"
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "plain.npy").rename(tmp_path / "plain.npz")
    assert refused(tmp_path / "plain.npz").kind == "bad_npz"
    assert refused(tmp_path / "none.npz").kind == "missing_data"
