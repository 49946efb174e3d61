"""Sources, parts, validation, normalisation and augmentation, all through ``load_data`` and ``batches``."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from narfx.data.image_data import open_data
from narfx.errors import UsageError
from narfx.tasks import ImageData, Split, batches, load_data

Arrays = dict[str, Any]


def numbered(count: int, first: int = 0, channels: int | None = None) -> NDArray[np.uint8]:
    """4x4 images whose first two pixels tell their number, so that a part shows which images it holds."""
    number = np.arange(first, first + count)
    images = np.zeros((count, 4, 4, channels or 1), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = (number % 256)[:, None], (number // 256)[:, None]
    images[:, 1:] = (number * 37 % 251)[:, None, None, None]
    return images if channels else images[..., 0]


def numbers(split: Split | None) -> list[int]:
    assert split is not None
    images = split.images(torch.arange(len(split))).long()
    return (images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1]).tolist()


def arrays(per_class: int = 20, classes: int = 3, **more: Any) -> Arrays:
    count = per_class * classes
    return {
        "x_train": numbered(count),
        "y_train": np.arange(count) % classes,
        "x_test": numbered(classes * 2, first=10_000),
        "y_test": np.arange(classes * 2) % classes,
        **more,
    }


def npz(folder: Path, values: Arrays, name: str = "set.npz") -> str:
    np.savez(folder / name, **values)
    return str(folder / name)


def folder_of(root: Path, counts: dict[str, int], colour: bool = True, size: tuple[int, int] = (6, 5)) -> Path:
    """An image folder with ``counts`` images a class (keys are ``train/cat`` or ``cat``)."""
    rng = np.random.default_rng(0)
    for place, count in counts.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*size, 3) if colour else size, dtype=np.uint8)
            Image.fromarray(pixels).save(root / place / f"{i}.png")
    return root


def refused(source: str | Path, shape: tuple[int, int, int] = (1, 4, 4), **options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_data(str(source), shape, **options)
    assert "\n" not in str(caught.value)
    return caught.value


# --- parts -----------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    fraction=st.sampled_from([1.0, 0.5, 0.1, 0.013]),
    val_fraction=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_parts_are_disjoint_stratified_and_never_touch_the_test_part(
    sizes: list[int], seed: int, fraction: float, val_fraction: float
) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    with tempfile.TemporaryDirectory() as folder:
        values = arrays(classes=len(sizes), x_train=numbered(len(labels)), y_train=labels)
        source = npz(Path(folder), values)
        data = load_data(source, (1, 4, 4), seed=seed, fraction=fraction, val_fraction=val_fraction)
    train, val = numbers(data.train), numbers(data.val)
    assert len({*train, *val}) == len(train) + len(val)
    assert max(train + val) < len(labels)  # the test part's numbers begin at 10,000
    assert numbers(data.test) == list(range(10_000, 10_000 + 2 * len(sizes)))
    assert data.train.labels.tolist() == labels[train].tolist()
    assert data.val.labels.tolist() == labels[val].tolist()
    for label, size in enumerate(sizes):
        used = max(round(fraction * size), 2)
        held = min(max(round(val_fraction * used), 1), used - 1)
        assert int((data.val.labels == label).sum()) == held
        assert int((data.train.labels == label).sum()) == used - held
    if fraction == 1.0:
        assert sorted(train + val) == list(range(len(labels)))


def test_the_seed_decides_the_parts(tmp_path: Path) -> None:
    source = npz(tmp_path, arrays())
    first, again, other = (load_data(source, (1, 4, 4), seed=seed) for seed in (1, 1, 2))
    assert numbers(first.train) == numbers(again.train)
    assert numbers(first.val) == numbers(again.val) != numbers(other.val)


def test_a_smaller_fraction_lies_within_a_larger_one(tmp_path: Path) -> None:
    source = npz(tmp_path, arrays())
    used = []
    for fraction in (0.1, 0.5, 1.0):
        data = load_data(source, (1, 4, 4), fraction=fraction)
        used.append({*numbers(data.train), *numbers(data.val)})
    assert used[0] < used[1] < used[2]
    assert [len(part) for part in used] == [6, 30, 60]


def test_a_fraction_keeps_an_image_of_each_class_where_validation_is_given(tmp_path: Path) -> None:
    source = npz(tmp_path, arrays(x_val=numbered(3, first=500), y_val=np.arange(3)))
    data = load_data(source, (1, 4, 4), fraction=0.01)
    assert sorted(data.train.labels.tolist()) == [0, 1, 2]
    assert numbers(data.val) == [500, 501, 502]
    assert not data.val_from_train


def test_notes_say_what_was_done(tmp_path: Path) -> None:
    data = load_data(npz(tmp_path, arrays()), (3, 8, 8), seed=5, fraction=0.5)
    told = "; ".join(data.notes)
    for part in (
        "30 of 60 images",
        "10 % of the training part, 3 images",
        "seed 5",
        "from 4x4 to 8x8",
        "repeated to 3",
    ):
        assert part in told
    assert data.val_from_train
    assert data.classes == ("0", "1", "2")


def test_validation_data_of_their_own(tmp_path: Path) -> None:
    other = npz(tmp_path, {"x_train": numbered(6, first=700), "y_train": np.arange(6) % 3}, "val.npz")
    data = load_data(npz(tmp_path, arrays()), (1, 4, 4), val_data=other)
    assert numbers(data.val) == list(range(700, 706))
    assert numbers(data.train) == list(range(60))
    assert not data.val_from_train


# --- arrays ----------------------------------------------------------------------------------------------------------


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


# --- normalisation ---------------------------------------------------------------------------------------------------


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


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", (1, 16, 16))


def test_batches_keep_the_order_without_a_seed_and_shuffle_with_one(digits: ImageData) -> None:
    plain = list(batches(digits.train, 100, data=digits))
    assert torch.equal(torch.cat([y for _, y in plain]), digits.train.labels)
    assert [len(y) for _, y in plain] == [100] * 12 + [99]
    assert [len(y) for _, y in batches(digits.train, 100, data=digits, drop_last=True)] == [100] * 12
    assert sum(len(y) for _, y in batches(digits.train, 100, data=digits, limit=250)) == 250
    one, same, two = (list(batches(digits.train, 100, data=digits, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(x, p) and torch.equal(y, q) for (x, y), (p, q) in zip(one, same, strict=True))
    assert not torch.equal(one[0][1], two[0][1])
    assert sorted(torch.cat([y for _, y in one]).tolist()) == sorted(digits.train.labels.tolist())


@pytest.mark.parametrize("augment", ["crop", "flip", "crop-flip"])
def test_augmentation_is_fixed_by_the_seed_and_not_by_global_state(digits: ImageData, augment: str) -> None:
    runs: list[torch.Tensor] = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(runs))
        runs.append(torch.cat([x for x, _ in batches(digits.train, 64, data=digits, seed=seed, augment=augment)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_every_augmented_image_is_a_crop_or_mirror_of_its_own(digits: ImageData) -> None:
    """Each is found among the 25 crops of its original (padding 16 // 8) and their mirrors, and all of these occur."""
    mean, std = digits.mean[0] * 255, digits.std[0] * 255
    plain, _ = next(batches(digits.train, 200, data=digits, seed=1))
    augmented, _ = next(batches(digits.train, 200, data=digits, seed=1, augment="crop-flip"))
    before, after = ((x * std + mean).round().to(torch.uint8)[:, 0] for x in (plain, augmented))
    padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
    found = []
    for source, target in zip(padded, after, strict=True):
        options = {
            (top, left, flip): window.flip(1) if flip else window
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            for window in [source[top : top + 16, left : left + 16]]
        }
        matches = [key for key, option in options.items() if torch.equal(option, target)]
        assert matches
        found.append(matches[0])
    assert len({(top, left) for top, left, _ in found}) == 25
    assert 60 < sum(flip for _, _, flip in found) < 140


def test_crop_never_flips_and_flip_never_shifts(digits: ImageData) -> None:
    plain, _ = next(batches(digits.train, 300, data=digits, seed=1))
    flipped, _ = next(batches(digits.train, 300, data=digits, seed=1, augment="flip"))
    same = (flipped == plain).flatten(1).all(1)
    assert torch.equal(flipped[~same], plain[~same].flip(3))
    assert 100 < int(same.sum()) < 200
    cropped, _ = next(batches(digits.train, 300, data=digits, seed=1, augment="crop"))
    # Rows and columns of a crop keep their order: no shift of the plain image equals the mirror of an uneven one.
    shifted = [cropped[i, 0, 4:12, 4:12] for i in range(300)]
    windows = [plain[i, 0].unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 8, 8) for i in range(300)]
    assert all((w == s).flatten(1).all(1).any() for w, s in zip(windows, shifted, strict=True))


def test_augmentation_refusals(digits: ImageData) -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'mixup'"):
        batches(digits.train, 8, data=digits, seed=0, augment="mixup")
    with pytest.raises(ValueError, match="needs a seed"):
        batches(digits.train, 8, data=digits, augment="crop")
    with pytest.raises(UsageError, match="batch size"):
        batches(digits.train, 0, data=digits)


def test_images_read_for_each_batch_equal_those_in_memory(tmp_path: Path) -> None:
    root = str(folder_of(tmp_path / "images", {"train/a": 30, "train/b": 30, "test/a": 3, "test/b": 3}))
    kept, read = (load_data(root, (3, 8, 8), memory=memory) for memory in (2**30, 1))
    assert kept.mean == read.mean
    assert any("for each batch" in note for note in read.notes)
    assert not any("for each batch" in note for note in kept.notes)
    for name in ("train", "val", "test"):
        pairs = zip(
            batches(getattr(kept, name), 7, data=kept, seed=0, augment="crop-flip"),
            batches(getattr(read, name), 7, data=read, seed=0, augment="crop-flip"),
            strict=True,
        )
        for (x, y), (p, q) in pairs:
            assert torch.equal(x, p) and torch.equal(y, q)
    next(batches(read.train, 7, data=read))  # left early: nothing hangs


# --- the bundled digits ----------------------------------------------------------------------------------------------


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


# --- folders ---------------------------------------------------------------------------------------------------------


def test_folder_with_all_parts(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {f"{part}/{name}": 4 for part in ("train", "val", "test") for name in ("dog", "cat")})
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / "._0.png").write_text("what another system left")
    (tmp_path / "train" / "cat" / "deeper").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "train" / "cat" / "deeper" / "x.JPG", format="jpeg")
    data = load_data(str(root), (3, 8, 8))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 4
    assert (len(data.val), len(data.test or ())) == (8, 8)
    assert not data.val_from_train


def test_folder_of_classes_alone_and_a_class_called_train(tmp_path: Path) -> None:
    data = load_data(str(folder_of(tmp_path, {"car": 4, "train": 4, "van": 4}, colour=False)), (3, 5, 5))
    assert data.classes == ("car", "train", "van")
    assert data.test is None
    assert (len(data.train), len(data.val)) == (9, 3)
    assert any("grey images repeated" in note for note in data.notes)


def test_images_of_every_common_kind(tmp_path: Path) -> None:
    home = tmp_path / "a"
    home.mkdir()
    red = Image.new("RGB", (8, 8), (200, 40, 40))
    red.save(home / "0.png")
    red.convert("RGBA").save(home / "1.png")
    red.quantize(4).save(home / "2.png", transparency=b"\x80\xff\xff\xff")
    red.save(home / "3.webp", lossless=True)
    red.save(home / "4.bmp")
    red.convert("CMYK").save(home / "5.tif")
    sixteen = np.full((8, 8), 120 * 257, dtype=np.uint16)
    Image.fromarray(sixteen).save(home / "6.png")
    Image.new("L", (8, 8), 120).save(home / "7.pgm")
    data = load_data(str(tmp_path), (3, 8, 8), val_fraction=0.01)
    held = load_data(str(tmp_path), (3, 8, 8), val_fraction=0.01, seed=1)
    images = [part.images(torch.arange(len(part))) for d in (data, held) for part in (d.train, d.val)]
    seen = {tuple(pixel) for pixel in torch.cat(images)[:, :, 4, 4].tolist()}
    assert seen == {(200, 40, 40), (120, 120, 120)}


def test_folder_refusals(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").kind == "missing_data"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").kind == "empty_data"
    (tmp_path / "bare" / "train").mkdir(parents=True)
    assert refused(tmp_path / "bare").kind == "empty_data"
    Image.new("L", (3, 3)).save(tmp_path / "empty" / "loose.png")
    assert "images but no class folders" in str(refused(tmp_path / "empty"))
    folder_of(tmp_path / "hollow", {"cat": 3, "dog": 0})
    error = refused(tmp_path / "hollow")
    assert error.kind == "class_without_images" and "dog" in str(error)
    error = refused(folder_of(tmp_path / "differ", {"train/cat": 3, "train/dog": 3, "test/cat": 3, "test/eel": 3}))
    assert error.kind == "classes_differ"
    assert "eel only in test" in str(error) and "dog only in train" in str(error)
    assert refused(folder_of(tmp_path / "headless", {"val/cat": 3, "test/cat": 3})).kind == "no_train_part"
    assert refused(folder_of(tmp_path / "colour", {"cat": 3}), (2, 4, 4)).kind == "channels"


@pytest.mark.parametrize("memory", [2**30, 1])
def test_an_undecodable_image_is_named(tmp_path: Path, memory: int) -> None:
    folder_of(tmp_path, {"cat": 12}, size=(40, 40))
    whole = (tmp_path / "cat" / "3.png").read_bytes()
    (tmp_path / "cat" / "3.png").write_bytes(whole[: len(whole) // 2])  # the header is good, the pixels end early
    with pytest.raises(UsageError) as caught:
        data = load_data(str(tmp_path), (3, 8, 8), memory=memory)
        list(batches(data.train, 4, data=data))
        list(batches(data.val, 4, data=data))
    assert caught.value.kind == "undecodable_image"
    assert str(Path("cat", "3.png")) in str(caught.value)
    (tmp_path / "cat" / "0.png").write_text("text")
    assert refused(tmp_path, (3, 8, 8), memory=memory).kind == "undecodable_image"


def test_pixels_of_32_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for i in range(2):
        Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "cat" / f"{i}.tif")
    assert "32 bits" in str(refused(tmp_path, (3, 4, 4)))


# --- torchvision -----------------------------------------------------------------------------------------------------


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


# --- factories -------------------------------------------------------------------------------------------------------

FACTORY = """
import numpy as np, torch
from PIL import Image
from beside import SHADE

def mapping():
    x = np.full((6, 4, 4, 3), SHADE, dtype=np.uint8)
    return {"x_train": torch.from_numpy(x), "y_train": torch.arange(6) % 2, "x_test": x[:2], "y_test": [0, 1]}

class Items:
    classes = ["no", "yes"]
    def __init__(self, count, kind):
        self.count, self.kind = count, kind
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        array = np.full((6, 5, 3), index * 10, dtype=np.uint8)
        image = {
            "pil": lambda: Image.fromarray(array),
            "array": lambda: array,
            "grey": lambda: array[..., 0],
            "uint8": lambda: torch.from_numpy(array).permute(2, 0, 1),
            "float": lambda: torch.from_numpy(array).permute(2, 0, 1).float() / 255,
            "normalised": lambda: torch.from_numpy(array).permute(2, 0, 1).float() / 255 - 0.5,
            "double": lambda: array.astype(np.float64),
            "text": lambda: "image",
            "four": lambda: np.zeros((6, 5, 4), dtype=np.uint8),
            "broken": lambda: 1 / 0,
        }[self.kind]()
        return image, torch.tensor(index % 2)

def pil(): return Items(10, "pil"), Items(4, "pil")
def array(): return Items(10, "array"), Items(4, "array")
def grey(): return [Items(10, "grey"), None]
def uint8(): return Items(10, "uint8"), Items(4, "uint8")
def floats(): return Items(10, "float"), Items(4, "float")

def normalised(): return Items(10, "normalised"), None
def double(): return Items(10, "double"), None
def text(): return Items(10, "text"), None
def four(): return Items(10, "four"), None
def broken(): return Items(10, "broken"), None
def empty(): return Items(0, "pil"), None
def float_labels(): return [(np.zeros((4, 4), np.uint8), 0.5)] * 3, None
def negative_labels(): return [(np.zeros((4, 4), np.uint8), -1)] * 3, None
def one_data_set(): return Items(10, "pil")
def three(): return 1, 2, 3
def no_train(): return None, Items(4, "pil")
def strings(): return "train", "test"
def lacking(): return {"x_train": np.zeros((2, 4, 4), np.uint8)}
def fails(): raise KeyError("weather")
def leaves(): raise SystemExit(3)
def wants(argument): return argument
number = 3
"""


PACKAGE = """
import numpy as np
def make():
    return {"x_train": np.zeros((4, 4, 4), np.uint8), "y_train": [0, 1, 0, 1]}
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FACTORY)
    (tmp_path / "beside.py").write_text("SHADE = 70\n")
    sys.modules.pop("beside", None)
    return tmp_path / "mine.py"


def test_factory_of_arrays_from_a_file_that_imports_its_neighbour(factory: Path) -> None:
    before = list(sys.path)
    data = load_data(f"{factory}:mapping", (3, 4, 4))
    assert (len(data.train), len(data.val), len(data.test or ())) == (4, 2, 2)
    assert int(data.train.images(torch.tensor([0]))[0, 0, 0, 0]) == 70
    assert sys.path == before


@pytest.mark.parametrize("memory", [2**30, 1])
@pytest.mark.parametrize("kind", ["pil", "array", "grey", "uint8", "floats"])
def test_factory_of_data_sets(factory: Path, kind: str, memory: int) -> None:
    data = load_data(f"{factory}:{kind}", (3, 6, 5), memory=memory)
    assert data.classes == ("no", "yes")
    assert (data.test is None) == (kind == "grey")
    for part in (data.train, data.val):
        shades = part.images(torch.arange(len(part)))[:, :, 3, 2]
        assert torch.equal(shades[:, 0] // 10 % 2, part.labels)
        assert torch.equal(shades, shades[:, :1].expand(-1, 3))
    assert len(data.train) + len(data.val) == 10


def test_factory_of_an_importable_package(factory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = factory.parent / "narfx_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sets.py").write_text(PACKAGE)
    monkeypatch.chdir(factory.parent)
    assert len(load_data("narfx_test_package.sets:make", (1, 4, 4)).train) == 2


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("nothing_here", "missing_factory", r"has no 'nothing_here'"),
        ("number", "factory_not_callable", "cannot be called"),
        ("fails", "factory_failed", r"KeyError at .*mine\.py:\d+: 'weather'"),
        ("leaves", "factory_failed", r"SystemExit at .*mine\.py:\d+: 3"),
        ("wants", "factory_failed", "TypeError"),
        ("one_data_set", "factory_result", "a Items"),
        ("three", "factory_result", "3 things"),
        ("no_train", "factory_result", "train part is None"),
        ("strings", "factory_result", "a str"),
        ("lacking", "missing_key", "y_train is missing"),
        ("empty", "empty_data", "has no images"),
        ("normalised", "bad_item", "leave out Normalize"),
        ("double", "bad_item", "float64"),
        ("text", "bad_item", "not str"),
        ("four", "channels", "4 channels"),
        ("broken", "bad_item", "ZeroDivisionError"),
        ("float_labels", "bad_item", "0.5"),
        ("negative_labels", "bad_item", "-1"),
    ],
)
def test_factory_refusals(factory: Path, name: str, kind: str, told: str) -> None:
    error = refused(f"{factory}:{name}", (3, 6, 5))
    assert error.kind == kind
    assert re.search(told, str(error))


def test_factory_import_refusals(tmp_path: Path) -> None:
    assert refused(f"{tmp_path}/none.py:make").kind == "missing_data"
    (tmp_path / "bad.py").write_text("def make(:\n")
    error = refused(f"{tmp_path}/bad.py:make")
    assert error.kind == "import_failed" and "SyntaxError" in str(error)
    (tmp_path / "raises.py").write_text("raise RuntimeError('two\\nlines')\n")
    assert re.search(r"RuntimeError at .*raises\.py:1: two lines$", str(refused(f"{tmp_path}/raises.py:make")))
    error = refused("no_such_package_of_narfx.data:make")
    assert error.kind == "missing_module" and "no_such_package_of_narfx" in str(error)
    assert "raises.py:factory" in str(refused(tmp_path / "raises.py"))


# --- bad input -------------------------------------------------------------------------------------------------------


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


def test_unknown_sources(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_text("")
    assert refused(tmp_path / "set.zip").kind == "unknown_source"
    for source in ("imagenet", ""):
        error = refused(source)
        assert error.kind == "unknown_source" and "digits" in str(error)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"fraction": 0.0}, "--data-fraction"),
        ({"fraction": 1.1}, "--data-fraction"),
        ({"fraction": float("nan")}, "--data-fraction"),
        ({"val_fraction": 0.0}, "--val-fraction"),
        ({"val_fraction": 1.0}, "--val-fraction"),
        ({"seed": -1}, "--seed"),
        ({"val_data": "digits"}, "--val-data"),
    ],
)
def test_argument_refusals(options: dict[str, Any], where: str) -> None:
    assert refused("digits", **options).where == where


def test_validation_data_whose_classes_differ(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 4, "dog": 4})
    error = refused(source, (3, 4, 4), val_data=str(folder_of(tmp_path / "other", {"cat": 4, "eel": 4})))
    assert error.kind == "classes_differ"
    assert "eel only in the validation data" in str(error) and "dog only in the training data" in str(error)
    swapped = {"x_train": numbered(4), "y_train": [0, 1, 0, 1], "class_names": ["dog", "cat"]}
    assert "another order" in str(refused(source, (3, 4, 4), val_data=npz(tmp_path, swapped)))
    labels_only = {"x_train": numbered(9), "y_train": np.arange(9) % 3}
    assert "label 2" in str(refused(source, (3, 4, 4), val_data=npz(tmp_path, labels_only)))
    assert refused(source, (3, 4, 4), val_data=str(tmp_path / "none")).kind == "missing_data"


# --- the room --------------------------------------------------------------------------------------------------------


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


def test_real_faces_in_a_folder(data_folder: Path, tmp_path: Path) -> None:
    wanted = ("Hugo_Chavez", "Tony_Blair")
    with tarfile.open(data_folder / "lfw_train112.tar") as tar:
        members = [member for member in tar.getmembers() if Path(member.name).parent.name in wanted]
        tar.extractall(tmp_path, members, filter="data")
    data = load_data(str(tmp_path / "lfw_train112"), (3, 56, 56), val_fraction=0.2)
    assert data.classes == wanted
    assert len(data.train) + len(data.val) == len(members)
    assert all(0.1 < mean < 0.9 and 0.1 < std < 0.5 for mean, std in zip(data.mean, data.std, strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_that_no_header_showed_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr("narfx.data.parts.probes", lambda count, most=0: range(1))  # as among a million files
    monkeypatch.setattr("narfx.data.stored.probes", lambda count, most=0: range(1))
    root = tmp_path / "images"
    for name, side in (("a/0", 16), ("a/1", 16), ("b/2", 16), ("b/3", 15)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, side)).save(root / f"{name}.png")
    source = str(root)
    if packed:
        source = str(tmp_path / "images.tar")
        with tarfile.open(source, "w") as archive:
            archive.add(root, ".")
    opened = open_data(source)
    assert opened.images.sizes == ((16, 16),)
    with pytest.raises(UsageError, match=r"3\.png is 15x16, smaller than the 16x16 of .* --input 3,16,16") as caught:
        load_data(opened, (3, 16, 16))
    assert (caught.value.kind, caught.value.exit_code) == ("small_images", 2)
    asked = load_data(open_data(source, shape=(3, 16, 16)), (3, 16, 16))
    assert len(asked.train) + len(asked.val) == 4
