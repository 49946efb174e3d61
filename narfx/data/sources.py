"""Read a data source as the user writes it: the bundled digits, torchvision's sets, and all other forms."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from narfx.data.arrays import Source, read_npz
from narfx.data.factories import read_factory
from narfx.data.folders import read_folder
from narfx.data.parts import ArrayPart, Shape
from narfx.data.registry import find_reader, register_source, source_forms
from narfx.data.stored import read_tar
from narfx.errors import UsageError
from narfx.inputs.data_ref import DataRef
from narfx.inputs.user_code import close_names

__all__ = ["read_source"]

_ANY_SHAPE = (3, 1, 1)


class _Known(NamedTuple):
    """A data set of torchvision: its class, its folder in the root, published statistics of the training part."""

    title: str
    folder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "crop-flip"


_TORCHVISION = {
    "cifar10": _Known("CIFAR10", "cifar-10-batches-py", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": _Known("CIFAR100", "cifar-100-python", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": _Known("MNIST", "MNIST/raw", (0.1307,), (0.3081,), "crop"),
    "fashion_mnist": _Known("FashionMNIST", "FashionMNIST/raw", (0.2860,), (0.3530,)),
}


def read_source(source: str, shape: Shape | None, limit: int) -> Source:
    """Read the parts of ``source``; the images may be read later.

    Args:
        source: One of the forms that :func:`narfx.data.registry.source_forms` lists.
        shape: The network's input (C, H, W), if the user named one; registered readers may fit images to it at once.
            Without one, images in files are never enlarged (:class:`narfx.data.parts.FilePart`).
        limit: How many bytes of images may be kept in memory.

    Raises:
        UsageError: The source has no known form, does not exist, or has wrong content.
    """
    try:
        return _read(source, shape, limit)
    except OSError as error:
        place = error.filename or source
        raise UsageError(f"cannot read {place}: {error.strerror or error}", where=source, kind="unreadable") from error


def _read(source: str, shape: Shape | None, limit: int) -> Source:
    if not source:
        raise UsageError(f"the data source is empty: give {source_forms()}", kind="unknown_source")
    ref = DataRef.parse(source)
    # Without memory for fitted images a reader gives images as they are, fitted when they are read.
    fitted = (_ANY_SHAPE, 0) if shape is None else (shape, limit)
    if ref.kind == "path":
        return _from_path(ref, *fitted)
    read = find_reader(ref.kind)
    return read_factory(ref, limit) if read is None else read(ref, *fitted)


def _from_path(ref: DataRef, shape: Shape, limit: int) -> Source:
    source, path = ref.place, Path(ref.place)
    if path.is_dir():
        return read_folder(path, enlarge=shape != _ANY_SHAPE)
    if (read := find_reader(path.suffix.lower())) is not None:
        if not path.is_file():
            raise UsageError(f"there is no file {source}: check the path", where=source, kind="missing_data")
        return read(ref, shape, limit)
    if path.is_file():
        how = f"name its factory, {source}:factory" if path.suffix == ".py" else f"give {source_forms()}"
        raise UsageError(f"{source} is not a data source: {how}", where=source, kind="unknown_source")
    if "/" in source or "\\" in source or path.suffix:
        raise UsageError(f"there is no file or folder {source}: check the path", where=source, kind="missing_data")
    close = close_names(source, ["digits", *_TORCHVISION])
    hint = f"did you mean {' or '.join(map(_form, close))}?" if close else f"check the path, or give {source_forms()}"
    raise UsageError(f"there is no folder and no data source {source}: {hint}", where=source, kind="unknown_source")


def _form(name: str) -> str:
    """How a source of this name is written."""
    return f"torchvision:{name}:ROOT" if name in _TORCHVISION else name


def _digits(*_: Any) -> Source:
    """scikit-learn's 1797 handwritten digits, 8x8 grey from 0 to 16, scaled to 0..255.

    The set has no parts. Every fifth image of each class is the test part, independent of the seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    held = rank % 5 == 4
    return Source(
        classes=tuple(map(str, range(10))),
        train=ArrayPart(images[~held], labels[~held]),
        test=ArrayPart(images[held], labels[held]),
        augment="crop",
        notes=(f"test: every fifth image of each class, {int(held.sum())} images, the same for every seed",),
    )


def _torchvision(ref: DataRef, *_: Any) -> Source:
    source, name, root = str(ref), ref.name, ref.place
    if name not in _TORCHVISION or not root:
        raise UsageError(
            f"cannot read {source!r}: write torchvision:NAME:ROOT, where NAME is one of {', '.join(_TORCHVISION)} and "
            "ROOT is the folder of the data set",
            where=source,
            kind="unknown_source",
        )
    known = _TORCHVISION[name]
    try:
        from torchvision import datasets
    except Exception as error:  # a torchvision built for another torch raises RuntimeError on import
        raise UsageError(
            f"torchvision cannot be imported ({error}): install torch and torchvision of one release",
            where=source,
            kind="torchvision",
        ) from error
    try:
        with warnings.catch_warnings():
            # CIFAR's files are pickles of an old numpy; torchvision compares their MD5 before it opens them.
            warnings.simplefilter("ignore")
            train, test = (getattr(datasets, known.title)(root, train=part, download=False) for part in (True, False))
    except Exception as error:
        raise UsageError(
            f"{root} does not contain the complete {known.title} in {known.folder}, as torchvision stores it: download "
            "it there first (narfx downloads nothing)",
            where=source,
            kind="missing_data",
        ) from error
    return Source(
        classes=tuple(train.classes),
        train=_torchvision_part(train),
        test=_torchvision_part(test),
        statistics=(known.mean, known.std),
        augment=known.augment,
    )


def _torchvision_part(data_set: Any) -> ArrayPart:
    images = np.asarray(data_set.data)
    return ArrayPart(images[..., None] if images.ndim == 3 else images, np.asarray(data_set.targets, dtype=np.int64))


register_source("digits", _digits, form="digits", takes_path=False)
register_source(
    ".tar", lambda ref, shape, _: read_tar(Path(ref.place), enlarge=shape != _ANY_SHAPE), form="a .tar of one"
)
register_source(".npz", lambda ref, *_: read_npz(Path(ref.place)), form="an .npz file")
register_source(
    "torchvision",
    _torchvision,
    form="torchvision:NAME:ROOT (NAME: cifar10, cifar100, mnist, fashion_mnist)",
    takes_name=True,
)
