"""Small data sets whose images are numbered, and how a refusal is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from narfx.errors import UsageError
from narfx.tasks import ImageData, Split, load_data

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


def load_digits() -> ImageData:
    return load_data("digits", (1, 16, 16))
