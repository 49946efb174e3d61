"""Parts for training, validation and test: disjoint, drawn by the seed, in proportion."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import arrays, folder_of, load_digits, npz, numbered, numbers, refused

from narfx.tasks import ImageData, load_data


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


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_digits()


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
