"""Batches: their order, and images that are read for each batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_data import folder_of, load_digits

from narfx.tasks import ImageData, batches, load_data


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_digits()


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
