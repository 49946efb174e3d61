"""Image data for classification: from a source to normalised batches; a seed decides every random step.

The validation part is split off the training part, or comes from its own source; it is never part of the test part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from narfx.data.arrays import Source
from narfx.data.augment import Augmentation, augment_images, check_augmentation
from narfx.data.digests import data_digest
from narfx.data.parts import Part, Shape, check_channels
from narfx.data.sources import read_source
from narfx.data.splits import Split, halves, hold_out, make_split, statistics, stream, subset
from narfx.errors import UsageError
from narfx.inputs.image_size import Images
from narfx.support.ranks import Ranks
from narfx.support.text import count

__all__ = [
    "ONE_CLASS",
    "Batch",
    "ImageData",
    "Opened",
    "Split",
    "batches",
    "fitting",
    "images_of",
    "load_data",
    "normalisation",
    "open_data",
    "ordered_batches",
]

ONE_CLASS = "warning: all images have the same label, so an accuracy on them means nothing: check the data"

Batch = tuple[torch.Tensor, torch.Tensor]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

_MEMORY = 2 * 1024**3


@dataclass(frozen=True)
class ImageData:
    """A data set fitted to a network.

    Attributes:
        name: The source.
        classes: The names of the classes.
        mean: Mean of each channel of the network, for images in [0, 1].
        std: Standard deviation of each channel of the network, for images in [0, 1].
        train: The training part.
        val: The validation part.
        test: The test part, if there is one.
        notes: Sentences on what was done to the data.
        val_from_train: Whether the validation images were split off the training part; weights that were trained
            elsewhere may have seen them.
        augment: The augmentation that suits the images.
        digest: The digest of all parts at their source (:mod:`narfx.data.digests`); empty where nothing needs it.
        test_from_val: Whether the test images were set apart from the validation part (:meth:`with_test`).
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
    digest: str = ""
    test_from_val: bool = False

    def with_test(self, seed: int) -> ImageData:
        """The data with a test part: the one that they have, else half of the validation part, alike in its classes.

        There is still none where no class has two validation images.
        """
        if self.test is not None:
            return self
        kept, apart = halves(self.val.labels.numpy(), seed)
        if not len(apart):
            return self
        note = f"{len(apart)} of {len(self.val)} validation images are set apart to judge the result, seed {seed}"
        val, test = self.val.take(kept), self.val.take(apart)
        return replace(self, val=val, test=test, test_from_val=True, notes=(*self.notes, note))

    @property
    def short_name(self) -> str:
        """The source without folders, for files that leave this machine."""
        return ":".join(Path(part).name or part for part in self.name.split(":"))


@dataclass(frozen=True)
class Opened:
    """A source that is read, and its validation part if it is not split off the training part."""

    source: str
    found: Source
    held: Part | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The training, validation and test part, as far as they exist."""
        return tuple(part for part in (self.found.train, self.held, self.found.test) if part is not None)

    @property
    def images(self) -> Images:
        """What is known of the images of all parts."""
        return images_of(self.source, *self.parts)


def images_of(name: str, *parts: Part) -> Images:
    """What is known of the images of these parts."""
    sizes = sorted({size for part in parts for size in part.sizes})
    return Images(name, max(part.channels for part in parts), tuple(sizes))


def open_data(source: str, val_data: str | None = None, shape: Shape | None = None, memory: int = _MEMORY) -> Opened:
    """Read ``source`` and ``val_data``, as for :func:`load_data`, before the network's input ``shape`` is known.

    Raises:
        UsageError: A source or its content is wrong, or their classes differ.
    """
    _check_validation(source, val_data)
    found = read_source(source, shape, memory)
    return Opened(source, found, _validation_source(found, val_data, shape, memory))


def load_data(
    source: str | Opened, input_shape: tuple[int, int, int], *, seed: int = 0, fraction: float = 1.0,
    most: int | None = None,
    val_data: str | None = None, val_fraction: float = 0.1, device: str | torch.device = "cpu", memory: int = _MEMORY,
    repeat_grey: bool = True, normalise: Normalisation | None = None,
) -> ImageData:  # fmt: skip
    """Read ``source``, take a fraction of its training part, split off validation, and fit images to the network.

    Sources:

    - ``digits`` (scikit-learn's);
    - a folder ``ROOT/train/CLASS/*`` with optional ``ROOT/val`` and ``ROOT/test``, or ``ROOT/CLASS/*``;
    - a ``.tar`` of ``CLASS/*``;
    - an ``.npz`` with ``x_train, y_train, x_test, y_test`` (uint8, channels last), or with ``images`` and ``identity``;
    - ``torchvision:NAME:ROOT``;
    - ``package.module:factory`` or ``file.py:factory``, a callable without arguments that returns a mapping with the
      keys of the ``.npz``, or a pair (train, test) of data sets of (image, label).

    Args:
        source: One of the forms above, or what :func:`open_data` has read; then ``val_data`` is read already too.
        input_shape: The network's (C, H, W). Images are resized to H and W (antialiased bilinear, without keeping the
            aspect ratio). Grey images are repeated to C channels; colour becomes luminance if C is 1.
        seed: Decides the subset and the validation part.
        fraction: The share of the training part to use, stratified by class; one tenth is the NAR paper's proxy.
        most: At most so many images of the training part are used, instead of the fraction if that is larger.
        val_data: A source whose training part is the validation part.
        val_fraction: The share of each class that is held out if there is no validation part.
        device: The device of batches, and of all images if they fit in memory.
        memory: Images are kept in memory if they need at most this many bytes as uint8, all parts together; otherwise
            they are read for each batch.
        repeat_grey: Whether a network with several channels accepts grey images.
        normalise: Mean and standard deviation to use instead of those of the data.

    Raises:
        UsageError: An argument, the source or its content is wrong.
    """
    _check_arguments(input_shape, seed, fraction, val_fraction)
    place = torch.device(device)
    opened = open_data(source, val_data, input_shape, memory) if isinstance(source, str) else source
    source, found, held, parts = opened.source, opened.found, opened.held, opened.parts
    for part in parts:
        check_channels(part.channels, input_shape[0], source, repeat_grey=repeat_grey)
    in_memory = sum(len(part.labels) for part in parts) * int(np.prod(input_shape)) <= memory
    labels, notes = found.train.labels, []
    fraction = fraction if most is None else min(fraction, most / len(labels))
    chosen = subset(labels, fraction, seed, least=2 if held is None else 1)
    if len(chosen) < len(labels):
        notes.append(f"training part: {len(chosen)} of {len(labels)} images, stratified by class, seed {seed}")
    if held is None:
        chosen, out = hold_out(labels, chosen, val_fraction, seed, found.classes, source)
        val = make_split(found.train, out, input_shape, place, in_memory)
        notes.append(
            f"validation: {100 * val_fraction:g} % of the training part, {count(len(out), 'image')}, stratified by "
            "class, "
            f"seed {seed}"
        )
    else:
        val = _whole(held, input_shape, place, in_memory)
        notes.append(f"validation: {count(len(val), 'image')} of {val_data or 'the source itself'}")
    train = make_split(found.train, chosen, input_shape, place, in_memory)
    test = None if found.test is None else _whole(found.test, input_shape, place, in_memory)
    mean, std, note = (*normalise, "") if normalise is not None else normalisation(found, train, input_shape)
    notes += [*found.notes, *fitting(parts, input_shape), *([note] if note else [])]
    if len(np.unique(labels)) == 1:
        notes.append(ONE_CLASS)
    if not in_memory:
        notes.append("images are read for each batch, because they do not fit in the memory limit")
    return ImageData(
        source, found.classes, mean, std, train, val, test, tuple(notes), held is None, found.augment,
        data_digest(found.classes, (found.train, held, found.test)),
    )  # fmt: skip


def _check_arguments(shape: Shape, seed: int, fraction: float, val_fraction: float) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(
            f"the input is {shape}: it must be (channels, height, width), three positive integers",
            where="--input",
            kind="input_shape",
        )
    if seed < 0:
        raise UsageError(f"the seed is {seed}: it must be 0, 1, 2, ...", where="--seed", kind="seed")
    if not 0 < fraction <= 1:
        raise UsageError(
            f"the data fraction is {fraction}: it must be above 0 and at most 1",
            where="--data-fraction",
            kind="fraction",
        )
    if not 0 < val_fraction < 1:
        raise UsageError(
            f"the validation fraction is {val_fraction}: it must be between 0 and 1",
            where="--val-fraction",
            kind="fraction",
        )


def _check_validation(source: str, val_data: str | None) -> None:
    if val_data == source:
        raise UsageError(
            "the validation data are the training data: name other data, or leave out --val-data to split some off",
            where="--val-data",
            kind="validation_is_training",
        )


def _validation_source(found: Source, val_data: str | None, shape: Shape | None, memory: int) -> Part | None:
    """The validation part of the user or of the source; ``None`` if it must be split off the training part."""
    for part, name in ((found.val, "validation"), (found.test, "test")):
        if part is not None:
            _check_labels(part, found.classes, name)
    if val_data is None:
        return found.val
    other = read_source(val_data, shape, memory)
    if found.named and other.named and found.classes != other.classes:
        extra = [name for name in other.classes if name not in found.classes]
        lacking = [name for name in found.classes if name not in other.classes]
        listed = [f"{', '.join(extra[:5])} only in the validation data"] if extra else []
        listed += [f"{', '.join(lacking[:5])} only in the training data"] if lacking else []
        raise UsageError(
            f"the classes of {val_data} differ from those of the training data "
            f"({'; '.join(listed) or 'they have another order'}): give both the same classes",
            where=val_data,
            kind="classes_differ",
        )
    _check_labels(other.train, found.classes, "validation")
    return other.train


def _check_labels(part: Part, classes: tuple[str, ...], name: str) -> None:
    unknown = np.setdiff1d(part.labels, np.arange(len(classes)))
    if len(unknown):
        raise UsageError(
            f"the {name} part has the label {unknown[0]}, but the training part only 0 to {len(classes) - 1}: remove "
            "these images, or add the class to the training part",
            where=name,
            kind="classes_differ",
        )


def _whole(part: Part, shape: Shape, device: torch.device, in_memory: bool) -> Split:
    return make_split(part, np.arange(len(part.labels), dtype=np.int64), shape, device, in_memory)


def normalisation(found: Source, train: Split, shape: Shape) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and standard deviation of each channel for images in [0, 1], and a note on where they come from.

    Published values are used if there are any, otherwise those of the training part.
    """
    if found.statistics is not None:
        mean, std = found.statistics
        if len(mean) in (1, shape[0]):
            repeat = shape[0] // len(mean)
            return mean * repeat, std * repeat, "mean and standard deviation: published values of the set"
    mean, std, seen = statistics(train)
    return mean, std, f"mean and standard deviation: of {count(seen, 'training image')}"


def fitting(parts: Sequence[Part], shape: Shape) -> list[str]:
    """Sentences on what is done to the images of these parts for a network of input ``shape`` (C, H, W)."""
    channels, height, width = shape
    notes = []
    sizes = sorted({size for part in parts for size in part.sizes})
    if sizes != [(height, width)]:
        origin = "several sizes" if len(sizes) > 1 else f"{sizes[0][0]}x{sizes[0][1]}"
        larger = any(size[0] < height or size[1] < width for size in sizes)
        notes.append(f"{'enlarged' if larger else 'resized'} from {origin} to {height}x{width}")
    have = {part.channels for part in parts}
    if 1 in have and channels != 1:
        notes.append(f"grey images repeated to {count(channels, 'channel')}")
    if 3 in have and channels == 1:
        notes.append("colour converted to luminance (ITU-R 601)")
    return notes


def batches(
    split: Split, batch_size: int, *, data: ImageData, seed: int | None = None, augment: Augmentation = "none",
    drop_last: bool = False, limit: int | None = None, ranks: Ranks | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """One pass over a split: normalised float32 ``(B, C, H, W)`` and int64 labels (B,) on the split's device.

    Args:
        split: A part of ``data``.
        batch_size: Images per batch.
        data: Its mean and standard deviation normalise the images.
        seed: Seed of shuffling and augmentation; without it the split's own order is kept.
        augment: ``none``, ``crop``, ``flip``, ``crop-flip`` or the user's own; all but ``none`` need a seed.
        drop_last: Whether to leave out a last batch that is smaller than ``batch_size``.
        limit: The largest number of images.
        ranks: Of each batch of ``batch_size`` this rank gets its share, augmented by draws of its own.

    Raises:
        UsageError: The augmentation is unknown, or the batch size is below 1.
        ValueError: An augmentation without a seed.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    order = torch.arange(len(split)) if generator is None else torch.randperm(len(split), generator=generator)
    if ranks is not None and not ranks.first and seed is not None:
        generator = torch.Generator().manual_seed(ranks.seed(seed))
    return ordered_batches(
        split, order[:limit], batch_size, data=data, augment=augment, generator=generator, drop_last=drop_last,
        ranks=ranks,
    )  # fmt: skip


def ordered_batches(
    split: Split, order: torch.Tensor, batch_size: int, *, data: ImageData, augment: Augmentation = "none",
    generator: torch.Generator | None = None, drop_last: bool = False, ranks: Ranks | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """As :func:`batches`, over the given indices ``order`` of the split."""
    check_augmentation(augment)
    if batch_size < 1:
        raise UsageError(
            f"the batch size is {batch_size}: it must be at least 1", where="--batch-size", kind="batch_size"
        )
    if augment != "none" and generator is None:
        raise ValueError(f"the augmentation {augment!r} needs a seed: give seed=0 or another number")
    chunks = [chunk for chunk in torch.split(order, min(batch_size, max(len(order), 1))) if len(chunk)]
    if drop_last and chunks and len(chunks[-1]) < batch_size:
        chunks.pop()
    if ranks is not None:
        chunks = [ranks.share(chunk) for chunk in chunks]
    return _prepared(split, chunks, data, augment, generator)


def _prepared(
    split: Split,
    chunks: Sequence[torch.Tensor],
    data: ImageData,
    augment: Augmentation,
    generator: torch.Generator | None,
) -> Iterator[Batch]:
    mean = std = torch.empty(0)
    for indices, images in stream(split, chunks):
        if mean.numel() == 0:
            mean, std = (
                torch.tensor(values, device=images.device).mul_(255).view(-1, 1, 1) for values in (data.mean, data.std)
            )
        if generator is not None:
            images = augment_images(images, augment, generator)
        # The memory order must not depend on the augmentation, because kernels and their rounding depend on it.
        yield images.float().contiguous().sub_(mean).div_(std), split.labels[indices].to(images.device)
