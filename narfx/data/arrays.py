"""Sources made of arrays: an ``.npz`` file, or a mapping with the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from narfx.data.parts import ArrayPart, IntArray, Part
from narfx.errors import UsageError

__all__ = ["Source", "from_arrays", "number_classes", "read_npz"]

_KEYS = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "class_names", "images", "identity")


@dataclass(frozen=True)
class Source:
    """The content of a source.

    Attributes:
        classes: The names of the classes.
        train: The training part.
        val: The validation part, if the source has one.
        test: The test part, if the source has one.
        named: Whether the classes have names; otherwise ``classes`` are the numbers of the labels.
        statistics: Published mean and standard deviation by channel, for images in [0, 1], if known.
        augment: The augmentation that suits the images.
        notes: Sentences on how the parts were made.
    """

    classes: tuple[str, ...]
    train: Part
    val: Part | None = None
    test: Part | None = None
    named: bool = True
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    augment: str = "crop-flip"
    notes: tuple[str, ...] = ()


def read_npz(path: Path) -> Source:
    """Read an ``.npz`` with ``x_train`` and ``y_train``, or with ``images`` and ``identity``.

    The parts ``test`` and ``val`` and ``class_names`` are optional; see :func:`from_arrays`.

    Raises:
        UsageError: The file is not an ``.npz``, needs pickle, or has wrong arrays (see :func:`from_arrays`).
    """
    where = str(path)
    try:
        # np.load(path) would leave the file open if it is not a zip file.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: _array(file, key, where) for key in _KEYS if key in file.files}
            keys = file.files
    except (UsageError, OSError, MemoryError):
        raise
    except Exception as error:  # a broken zip, a broken header and a plain .npy raise different exceptions
        raise UsageError(
            f"{where} is not an .npz of arrays, or it is damaged: write it with numpy.savez",
            where=where,
            kind="bad_npz",
        ) from error
    return from_arrays(arrays, where, keys)


def _array(file: Any, key: str, where: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = file[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise UsageError(
            f"{key} is an array of pickled Python objects, which narfx does not read: save plain numbers or strings",
            where=where,
            kind="pickled_array",
        ) from error
    return array


def from_arrays(arrays: Mapping[str, Any], where: str, keys: list[str] | None = None) -> Source:
    """A source of arrays or tensors: images uint8 ``(N, H, W)`` or ``(N, H, W, C)``, labels integers ``(N,)``.

    Without ``x_train``, ``images`` (also ``(N, C, H, W)``) are the training part, and ``identity`` (N,), integers or
    names, gives the class of each.

    Args:
        arrays: The arrays by key.
        where: The name of the source, for messages.
        keys: All keys of the source, for messages; default: those of ``arrays``.

    Raises:
        UsageError: A key is missing, an array has another shape or type, a label is negative, or a class is empty.
    """
    known = [str(key) for key in (arrays if keys is None else keys)]
    if "x_train" not in arrays and "images" in arrays:
        return _identities(arrays, where, known)
    train = _part(arrays, "x_train", "y_train", where, known)
    if train is None:
        raise _missing("x_train", where, known)
    names = _names(arrays["class_names"], where) if "class_names" in arrays else None
    classes = number_classes(train.labels, names, where)
    held = {name: _part(arrays, f"x_{name}", f"y_{name}", where, known) for name in ("val", "test")}
    return Source(classes, train, held["val"], held["test"], named=names is not None)


def _identities(arrays: Mapping[str, Any], where: str, keys: list[str]) -> Source:
    if "identity" not in arrays:
        raise _missing("identity", where, keys)
    images, people = _plain(arrays["images"]), _plain(arrays["identity"])
    if people.ndim != 1 or people.dtype.kind not in "iuUS":
        raise UsageError(
            f"identity is {people.dtype} of shape {people.shape}: it must have one integer or name for each image",
            where=where,
            kind="label_dtype",
        )
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    found, labels = np.unique(people, return_inverse=True)
    read = {"images": images, "identity": labels.reshape(-1)}
    train = _part(read, "images", "identity", where, keys)
    assert train is not None, "both keys are there"
    names = found.astype(str) if found.dtype.kind != "S" else np.char.decode(found, "utf-8", "replace")
    notes = ("test: none, images and identity have no parts",)
    return Source(_names(names, where), train, named=True, notes=notes)


def _missing(key: str, where: str, keys: list[str]) -> UsageError:
    found = ", ".join(keys) or "nothing"
    return UsageError(
        f"{key} is missing: give x_train and y_train (optional: x_test and y_test), or images and identity; found "
        f"{found}",
        where=where,
        kind="missing_key",
    )


def _part(arrays: Mapping[str, Any], x: str, y: str, where: str, keys: list[str]) -> ArrayPart | None:
    if x not in arrays and y not in arrays:
        return None
    for key in (x, y):
        if key not in arrays:
            raise _missing(key, where, keys)
    images, labels = _plain(arrays[x]), _plain(arrays[y])
    if images.dtype != np.uint8:
        raise UsageError(f"{x} is {images.dtype}: images must be uint8, from 0 to 255", where=where, kind="image_dtype")
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise UsageError(
            f"{x} has the shape {images.shape}: it must be (N, H, W) or (N, H, W, C)", where=where, kind="image_shape"
        )
    if len(images) == 0:
        raise UsageError(f"{x} has no images: give at least one", where=where, kind="empty_data")
    return ArrayPart(images[..., None] if images.ndim == 3 else images, _labels(labels, y, len(images), where))


def _plain(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _labels(labels: NDArray[Any], key: str, count: int, where: str) -> IntArray:
    if labels.dtype.kind not in "iu":
        raise UsageError(
            f"{key} is {labels.dtype}: labels must be integers 0, 1, 2, ...", where=where, kind="label_dtype"
        )
    if labels.shape not in ((count,), (count, 1)):
        raise UsageError(
            f"{key} has the shape {labels.shape} for {count} images: it must be ({count},)",
            where=where,
            kind="label_shape",
        )
    if labels.min() < 0:
        raise UsageError(
            f"{key} has the label {labels.min()}: labels must be 0, 1, 2, ...", where=where, kind="label_range"
        )
    if labels.max() > np.iinfo(np.int32).max:
        raise UsageError(
            f"{key} has the label {labels.max()}, which is too large: labels must be 0, 1, 2, ...",
            where=where,
            kind="label_range",
        )
    return labels.reshape(-1).astype(np.int64)


def _names(value: Any, where: str) -> tuple[str, ...]:
    names = np.asarray(value)
    if names.ndim != 1 or names.dtype.kind not in "US" or len(set(names.tolist())) != len(names):
        raise UsageError(
            "class_names must be a one-dimensional array of distinct strings, one for each class",
            where=where,
            kind="class_names",
        )
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist())


def number_classes(labels: IntArray, names: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """The class names of a training part; without ``names`` they are the numbers of the labels.

    Raises:
        UsageError: A label has no name, or a class has no training image.
    """
    present = np.unique(labels)
    if names is not None and present[-1] >= len(names):
        raise UsageError(
            f"there are {len(names)} class names, but the labels go up to {present[-1]}: give a name for each class",
            where=where,
            kind="class_names",
        )
    count = int(present[-1]) + 1 if names is None else len(names)
    if len(present) != count:
        gap = int(np.argmax(np.append(present, -1) != np.arange(len(present) + 1)))
        called = "" if names is None else f" ({names[gap]})"
        raise UsageError(
            f"class {gap}{called} of {count} has no training image: number the classes 0, 1, 2, ... without gaps",
            where=where,
            kind="class_without_images",
        )
    return names or tuple(map(str, range(count)))
