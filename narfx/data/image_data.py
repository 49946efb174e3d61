"""Image data for classification: from a source to normalised batches, each step fixed by a seed.

The validation part comes out of the training part, never out of the test part, or from a source of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from narfx.data.arrays import Source
from narfx.data.augment import augment_images, check_augmentation
from narfx.data.parts import Part, Shape, check_channels
from narfx.data.sources import read_source
from narfx.data.splits import Split, hold_out, make_split, statistics, stream, subset
from narfx.errors import UsageError

__all__ = ["Batch", "ImageData", "Split", "batches", "load_data", "normalisation", "ordered_batches"]

Batch = tuple[torch.Tensor, torch.Tensor]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

_MEMORY = 2 * 1024**3


@dataclass(frozen=True)
class ImageData:
    """A data set fitted to a network.

    ``mean`` and ``std`` are per channel of the network, for images in [0, 1]. ``notes`` say in words what was done to
    the data. ``val_from_train`` is true where validation images were split off the training part, which weights
    trained elsewhere may have seen. ``augment`` is the augmentation that suits the images.
    """

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    val: Split
    test: Split | None
    notes: tuple[str, ...]
    val_from_train: bool
    augment: str = "crop-flip"

    @property
    def short_name(self) -> str:
        """The source without folders: what a file may hold that goes elsewhere."""
        return ":".join(Path(part).name or part for part in self.name.split(":"))


def load_data(
    source: str, input_shape: tuple[int, int, int], *, seed: int = 0, fraction: float = 1.0,
    val_data: str | None = None, val_fraction: float = 0.1, device: str | torch.device = "cpu", memory: int = _MEMORY,
    repeat_grey: bool = True, normalise: Normalisation | None = None,
) -> ImageData:  # fmt: skip
    """Read ``source``, take the fraction of its training part, split validation off, fit the images to the network.

    Sources: ``digits`` (scikit-learn's); a folder ``ROOT/train/CLASS/*`` with ``ROOT/val`` and ``ROOT/test`` where
    there are any, or ``ROOT/CLASS/*``; a ``.tar`` of that; an ``.npz`` with ``x_train, y_train, x_test, y_test``
    (uint8, channels last), or with ``images`` and ``identity``;
    ``torchvision:NAME:ROOT``; ``package.module:factory`` or ``file.py:factory``, a callable without arguments that
    returns a mapping with the keys of the ``.npz``, or a pair (train, test) of data sets of (image, label).

    Args:
        source: One of the forms above.
        input_shape: The network's (C, H, W). Images are resized to H and W (antialiased bilinear, the aspect ratio
            is not kept); grey is repeated to C channels, colour becomes luminance where C is 1.
        seed: Decides the subset and the validation part.
        fraction: The share of the training part that is used, by class; one tenth is the NAR paper's proxy.
        val_data: A source whose training part, or folder of classes, is the validation part.
        val_fraction: The share of each class that is held out where the source has no validation part.
        device: Where images live that fit in memory, and where batches are made.
        memory: How many bytes of uint8 images, all parts together, are kept in memory; more are read for each batch.
        repeat_grey: Whether a network of several channels takes grey images.
        normalise: The mean and standard deviation, where they are not those of the data.

    Raises:
        UsageError: An argument, the source or what it holds is not as it should be.
    """
    _check_arguments(source, input_shape, seed, fraction, val_data, val_fraction)
    place = torch.device(device)
    found = read_source(source, input_shape, memory)
    held = _validation_source(found, val_data, input_shape, memory)
    parts = [part for part in (found.train, held, found.test) if part is not None]
    for part in parts:
        check_channels(part.channels, input_shape[0], source, repeat_grey=repeat_grey)
    in_memory = sum(len(part.labels) for part in parts) * int(np.prod(input_shape)) <= memory
    labels, notes = found.train.labels, []
    chosen = subset(labels, fraction, seed, least=2 if held is None else 1)
    if len(chosen) < len(labels):
        notes.append(f"training part: {len(chosen)} of {len(labels)} images, by class, seed {seed}")
    if held is None:
        chosen, out = hold_out(labels, chosen, val_fraction, seed, found.classes, source)
        val = make_split(found.train, out, input_shape, place, in_memory)
        notes.append(
            f"validation: {100 * val_fraction:g} % of the training part, {len(out)} images, by class, seed {seed}"
        )
    else:
        val = _whole(held, input_shape, place, in_memory)
        notes.append(f"validation: {len(val)} images of {val_data or 'the source itself'}")
    train = make_split(found.train, chosen, input_shape, place, in_memory)
    test = None if found.test is None else _whole(found.test, input_shape, place, in_memory)
    mean, std, note = (*normalise, "") if normalise is not None else normalisation(found, train, input_shape)
    notes += [*found.notes, *_fitting(parts, input_shape), *([note] if note else [])]
    if not in_memory:
        notes.append("images are read for each batch, they are too many to be kept in memory")
    return ImageData(
        source, found.classes, mean, std, train, val, test, tuple(notes), held is None, found.augment
    )  # fmt: skip


def _check_arguments(
    source: str, shape: Shape, seed: int, fraction: float, val_data: str | None, val_fraction: float
) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(f"the input {shape} is not (channels, height, width)", where="--input", kind="input_shape")
    if seed < 0:
        raise UsageError(f"the seed is {seed}: seeds are 0, 1, 2, ...", where="--seed", kind="seed")
    if not 0 < fraction <= 1:
        raise UsageError(
            f"the data fraction is {fraction}: it is above 0 and at most 1", where="--data-fraction", kind="fraction"
        )
    if not 0 < val_fraction < 1:
        raise UsageError(
            f"the validation fraction is {val_fraction}: it lies between 0 and 1",
            where="--val-fraction",
            kind="fraction",
        )
    if val_data == source:
        raise UsageError(
            "the validation data are the training data: name other data, or leave --val-data out to hold some out",
            where="--val-data",
            kind="validation_is_training",
        )


def _validation_source(found: Source, val_data: str | None, shape: Shape, memory: int) -> Part | None:
    """The validation part that the user or the source gives; ``None`` where it has to come out of the training part."""
    for part, name in ((found.val, "validation"), (found.test, "test")):
        if part is not None:
            _check_labels(part, found.classes, name)
    if val_data is None:
        return found.val
    other = read_source(val_data, shape, memory)
    if found.named and other.named and found.classes != other.classes:
        extra = [name for name in other.classes if name not in found.classes]
        lacking = [name for name in found.classes if name not in other.classes]
        told = [f"{', '.join(extra[:5])} only there"] if extra else []
        told += [f"{', '.join(lacking[:5])} only in the training data"] if lacking else []
        raise UsageError(
            f"the classes of {val_data} differ from those of the training data: "
            f"{'; '.join(told) or 'they stand in another order'}",
            where=val_data,
            kind="classes_differ",
        )
    _check_labels(other.train, found.classes, "validation")
    return other.train


def _check_labels(part: Part, classes: tuple[str, ...], name: str) -> None:
    unknown = np.setdiff1d(part.labels, np.arange(len(classes)))
    if len(unknown):
        raise UsageError(
            f"the {name} part has the label {unknown[0]}, but the training part only 0 to {len(classes) - 1}",
            where=name,
            kind="classes_differ",
        )


def _whole(part: Part, shape: Shape, device: torch.device, in_memory: bool) -> Split:
    return make_split(part, np.arange(len(part.labels), dtype=np.int64), shape, device, in_memory)


def normalisation(found: Source, train: Split, shape: Shape) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and standard deviation by channel: published ones, else those of the training part; and which, in words."""
    if found.statistics is not None:
        mean, std = found.statistics
        if len(mean) in (1, shape[0]):
            repeat = shape[0] // len(mean)
            return mean * repeat, std * repeat, "mean and standard deviation: published values of the set"
    mean, std, count = statistics(train)
    return mean, std, f"mean and standard deviation: of {count} training images"


def _fitting(parts: Sequence[Part], shape: Shape) -> list[str]:
    """What was done to the images, in words."""
    channels, height, width = shape
    notes = []
    sizes = sorted({size for part in parts for size in part.sizes})
    if sizes != [(height, width)]:
        origin = "several sizes" if len(sizes) > 1 else f"{sizes[0][0]}x{sizes[0][1]}"
        notes.append(f"resized from {origin} to {height}x{width}")
    have = {part.channels for part in parts}
    if 1 in have and channels != 1:
        notes.append(f"grey images repeated to {channels} channels")
    if 3 in have and channels == 1:
        notes.append("colour converted to luminance (ITU-R 601)")
    return notes


def batches(
    split: Split, batch_size: int, *, data: ImageData, seed: int | None = None, augment: str = "none",
    drop_last: bool = False, limit: int | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """One pass over a split: normalised float32 ``(B, C, H, W)`` and int64 labels (B,) on the split's device.

    Args:
        split: A part of ``data``.
        batch_size: Images in a batch.
        data: Whose mean and standard deviation normalise.
        seed: Shuffles and augments; the order is the split's own without one.
        augment: ``none``, ``crop``, ``flip`` or ``crop-flip``; all but ``none`` need a seed.
        drop_last: Leave a last batch out that is smaller than ``batch_size``.
        limit: At most so many images.

    Raises:
        UsageError: The augmentation is unknown, or the batch size is below 1.
        ValueError: An augmentation without a seed.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    order = torch.arange(len(split)) if generator is None else torch.randperm(len(split), generator=generator)
    return ordered_batches(
        split, order[:limit], batch_size, data=data, augment=augment, generator=generator, drop_last=drop_last
    )


def ordered_batches(
    split: Split, order: torch.Tensor, batch_size: int, *, data: ImageData, augment: str = "none",
    generator: torch.Generator | None = None, drop_last: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """As :func:`batches`, over the indices ``order`` of the split."""
    check_augmentation(augment)
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}: it is at least 1", where="--batch-size", kind="batch_size")
    if augment != "none" and generator is None:
        raise ValueError(f"the augmentation {augment!r} needs a seed")
    chunks = [chunk for chunk in torch.split(order, batch_size) if len(chunk)]
    if drop_last and chunks and len(chunks[-1]) < batch_size:
        chunks.pop()
    return _prepared(split, chunks, data, augment, generator)


def _prepared(
    split: Split, chunks: Sequence[torch.Tensor], data: ImageData, augment: str, generator: torch.Generator | None
) -> Iterator[Batch]:
    mean = std = torch.empty(0)
    for indices, images in stream(split, chunks):
        if mean.numel() == 0:
            mean, std = (
                torch.tensor(values, device=images.device).mul_(255).view(-1, 1, 1) for values in (data.mean, data.std)
            )
        if generator is not None:
            images = augment_images(images, augment, generator)
        # The order of the memory must not depend on the augmentation: kernels and their rounding follow it.
        yield images.float().contiguous().sub_(mean).div_(std), split.labels[indices].to(images.device)
