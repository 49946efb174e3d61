"""An image folder as a source: a folder a class, in parts or in one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from narfx.data.arrays import Source
from narfx.data.parts import FilePart, Part
from narfx.errors import UsageError

__all__ = ["SUFFIXES", "read_folder"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
_PARTS = ("train", "val", "test")


def read_folder(root: Path) -> Source:
    """``ROOT/train/CLASS/*.jpg`` with ``ROOT/val`` and ``ROOT/test`` where there are any, or ``ROOT/CLASS/*.jpg``.

    Classes are the names of the folders in the order of their characters, as torchvision's ``ImageFolder`` numbers
    them. Without ``train`` all images are the training part, and there is no test part.

    Raises:
        UsageError: No class folder, a class folder without images, or parts whose classes differ.
    """
    folders = set(_folders(root))
    # A folder "train" that holds images and no folders is a class of trains, if other classes stand beside it.
    if "train" not in folders or not (_folders(root / "train") or folders <= set(_PARTS)):
        if folders and folders <= {"val", "test"}:
            raise UsageError(
                f"{root} has no folder train beside {' and '.join(sorted(folders))}",
                where=str(root),
                kind="no_train_part",
            )
        return Source(tuple(_folders(root)), _part(root), notes=("test: none, the folder has no part of that name",))
    parts: dict[str, Part] = {name: _part(root / name) for name in _PARTS if name in folders}
    classes = _folders(root / "train")
    for name in parts:
        _agree(classes, _folders(root / name), root / name)
    notes = () if "test" in parts else ("test: none, the folder has no part of that name",)
    return Source(tuple(classes), parts["train"], parts.get("val"), parts.get("test"), notes=notes)


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _stop(error: OSError) -> None:
    raise error


def _images(folder: Path) -> list[Path]:
    found = [
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=_stop)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
    ]
    return sorted(found)


def _part(root: Path) -> FilePart:
    classes = _folders(root)
    if not classes:
        what = "images but no folders of classes" if _images(root) else "no images"
        raise UsageError(
            f"{root} holds {what}: one folder a class is read, such as {root}/cat/1.jpg",
            where=str(root),
            kind="empty_data",
        )
    paths: list[Path] = []
    counts = []
    for name in classes:
        images = _images(root / name)
        if not images:
            raise UsageError(
                f"the class folder {root / name} holds no image ({', '.join(sorted(SUFFIXES))}): fill or remove it",
                where=str(root / name),
                kind="class_without_images",
            )
        paths += images
        counts.append(len(images))
    return FilePart(paths, np.repeat(np.arange(len(classes), dtype=np.int64), counts))


def _agree(train: list[str], other: list[str], where: Path) -> None:
    if train == other:
        return
    extra, lacking = sorted(set(other) - set(train)), sorted(set(train) - set(other))
    told = [f"{', '.join(extra[:5])} only there"] if extra else []
    told += [f"{', '.join(lacking[:5])} only in train"] if lacking else []
    raise UsageError(
        f"the classes of {where} differ from those of train: {'; '.join(told)}", where=str(where), kind="classes_differ"
    )
