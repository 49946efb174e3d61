"""Image folders as sources: one folder for each class, with or without parts."""

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
_NO_TEST = "test: none, the folder has no part of that name"


def read_folder(root: Path, *, enlarge: bool = True) -> Source:
    """Read ``ROOT/train/CLASS/*.jpg`` with optional ``ROOT/val`` and ``ROOT/test``, or ``ROOT/CLASS/*.jpg``.

    The classes are the sorted names of the folders, as in torchvision's ``ImageFolder``. Without ``train`` all images
    are the training part, and there is no test part. ``enlarge`` is as for :class:`~narfx.data.parts.FilePart`.

    Raises:
        UsageError: There is no class folder, a class folder has no images, or the classes of the parts differ.
    """
    folders = set(_folders(root))
    # A folder "train" with images and without subfolders is a class of trains, if there are other classes.
    if "train" not in folders or not (_folders(root / "train") or folders <= set(_PARTS)):
        if folders and folders <= {"val", "test"}:
            raise UsageError(
                f"{root} has {' and '.join(sorted(folders))}, but no folder train: add one",
                where=str(root),
                kind="no_train_part",
            )
        return Source(tuple(_folders(root)), _part(root, enlarge), notes=(_NO_TEST,))
    parts: dict[str, Part] = {name: _part(root / name, enlarge) for name in _PARTS if name in folders}
    classes = _folders(root / "train")
    for name in parts:
        _agree(classes, _folders(root / name), root / name)
    notes = () if "test" in parts else (_NO_TEST,)
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


def _part(root: Path, enlarge: bool) -> FilePart:
    classes = _folders(root)
    if not classes:
        what = "images but no class folders" if _images(root) else "no images"
        raise UsageError(
            f"{root} has {what}: make one folder for each class, for example {root}/cat/1.jpg",
            where=str(root),
            kind="empty_data",
        )
    paths: list[Path] = []
    counts = []
    for name in classes:
        images = _images(root / name)
        if not images:
            raise UsageError(
                f"the class folder {root / name} has no image ({', '.join(sorted(SUFFIXES))}): fill or remove it",
                where=str(root / name),
                kind="class_without_images",
            )
        paths += images
        counts.append(len(images))
    return FilePart(paths, np.repeat(np.arange(len(classes), dtype=np.int64), counts), enlarge=enlarge)


def _agree(train: list[str], other: list[str], where: Path) -> None:
    if train == other:
        return
    extra, lacking = sorted(set(other) - set(train)), sorted(set(train) - set(other))
    found = [f"{', '.join(extra[:5])} only in {where.name}"] if extra else []
    found += [f"{', '.join(lacking[:5])} only in train"] if lacking else []
    raise UsageError(
        f"the classes of {where} differ from those of train ({'; '.join(found)}): give all parts the same classes",
        where=str(where),
        kind="classes_differ",
    )
