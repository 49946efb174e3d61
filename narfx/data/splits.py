"""Stratified draws from a training part, and splits: images in memory, or read when needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from narfx.data.parts import IntArray, Part, Shape
from narfx.errors import UsageError

__all__ = [
    "LazySplit",
    "MemorySplit",
    "Split",
    "halves",
    "hold_out",
    "make_split",
    "spread",
    "statistics",
    "stream",
    "subset",
]

_CHUNK = 1024
_STATISTICS_IMAGES = 4096
_AHEAD = 2


class Split(Protocol):
    """One part of a data set; ``labels`` are int64 (N,) on the CPU."""

    labels: torch.Tensor

    def __len__(self) -> int: ...

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        """The images at ``indices`` as uint8 ``(B, C, H, W)``, fitted to the network, on the split's device."""
        ...

    def take(self, indices: IntArray) -> Split:
        """The images at ``indices`` as a split of their own."""
        ...


class MemorySplit:
    """Images kept as one uint8 tensor on a device; grey images are repeated when they are read."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, channels: int) -> None:
        self._images, self.labels, self._channels = images, labels, channels

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        """See :class:`Split`."""
        images = self._images[indices.to(self._images.device)]
        return images if images.shape[1] == self._channels else images.repeat(1, self._channels, 1, 1)

    def take(self, indices: IntArray) -> MemorySplit:
        """See :class:`Split`."""
        chosen = torch.from_numpy(indices)
        return MemorySplit(self._images[chosen.to(self._images.device)], self.labels[chosen], self._channels)


class LazySplit:
    """Images read from their source for each batch."""

    def __init__(self, part: Part, indices: IntArray, shape: Shape, device: torch.device) -> None:
        self._part, self._indices, self._shape, self._device = part, indices, shape, device
        self.labels = torch.from_numpy(part.labels[indices])

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        """See :class:`Split`."""
        images = self._part.read(self._indices[indices.cpu().numpy()], self._shape).to(self._device)
        return images if images.shape[1] == self._shape[0] else images.repeat(1, self._shape[0], 1, 1)

    def take(self, indices: IntArray) -> LazySplit:
        """See :class:`Split`."""
        return LazySplit(self._part, self._indices[indices], self._shape, self._device)


def make_split(part: Part, indices: IntArray, shape: Shape, device: torch.device, in_memory: bool) -> Split:
    """The images of ``part`` at ``indices`` as a split for a network of input ``shape`` (C, H, W)."""
    if not in_memory:
        return LazySplit(part, indices, shape, device)
    whole: torch.Tensor | None = None
    for start in range(0, len(indices), _CHUNK):
        images = part.read(indices[start : start + _CHUNK], shape)
        if whole is None:
            whole = torch.empty(len(indices), *images.shape[1:], dtype=torch.uint8, device=device)
        whole[start : start + len(images)] = images
    assert whole is not None, "a part has at least one image"
    return MemorySplit(whole, torch.from_numpy(part.labels[indices]), shape[0])


def stream(split: Split, chunks: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(indices, images) of each chunk, in order; images that are read from their source are read ahead."""
    if not isinstance(split, LazySplit):
        for chunk in chunks:
            yield chunk, split.images(chunk)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="narfx-ahead") as pool:
        coming = deque(pool.submit(split.images, chunk) for chunk in chunks[:_AHEAD])
        for number, chunk in enumerate(chunks):
            images = coming.popleft().result()
            if number + _AHEAD < len(chunks):
                coming.append(pool.submit(split.images, chunks[number + _AHEAD]))
            yield chunk, images


def _by_class(labels: IntArray, indices: IntArray, seed: tuple[int, int]) -> Iterator[IntArray]:
    """The members of each class, in a random order that depends on the seed."""
    rng = np.random.default_rng(seed)
    for label in np.unique(labels[indices]):
        yield rng.permutation(indices[labels[indices] == label])


def subset(labels: IntArray, fraction: float, seed: int, least: int) -> IntArray:
    """Ascending indices of a stratified subset; with one seed, a smaller fraction is a subset of a larger one.

    Every class keeps at least ``least`` images, or all that it has.
    """
    everything = np.arange(len(labels), dtype=np.int64)
    if fraction == 1.0:
        return everything
    groups = _by_class(labels, everything, (seed, 1))
    return np.sort(np.concatenate([group[: max(round(fraction * len(group)), least)] for group in groups]))


def hold_out(
    labels: IntArray, indices: IntArray, fraction: float, seed: int, classes: tuple[str, ...], where: str
) -> tuple[IntArray, IntArray]:
    """Split ``indices`` into (kept, held out), both ascending; ``fraction`` of each class is held out.

    Raises:
        UsageError: A class has fewer than two images, one to keep and one to hold out.
    """
    held = []
    for group in _by_class(labels, indices, (seed, 2)):
        if len(group) < 2:
            name = classes[int(labels[group[0]])]
            raise UsageError(
                f"class {name} has a single training image, so none can be held out for validation: add images, or "
                "give a validation set with --val-data",
                where=where,
                kind="too_few_images",
            )
        held.append(group[: min(max(round(fraction * len(group)), 1), len(group) - 1)])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(indices, out, assume_unique=True), out


def halves(labels: IntArray, seed: int) -> tuple[IntArray, IntArray]:
    """Ascending indices of two halves, alike in their classes; the odd image of a class goes to the first."""
    groups = list(_by_class(labels, np.arange(len(labels), dtype=np.int64), (seed, 5)))
    second = np.sort(np.concatenate([group[: len(group) // 2] for group in groups]))
    return np.setdiff1d(np.arange(len(labels), dtype=np.int64), second, assume_unique=True), second


def spread(labels: IntArray, count: int) -> IntArray:
    """Indices of ``count`` images, spread as evenly as possible over the classes, in a fixed random order."""
    everything = np.arange(len(labels), dtype=np.int64)
    ranked = [(rank, index) for group in _by_class(labels, everything, (0, 3)) for rank, index in enumerate(group)]
    ranked.sort(key=lambda pair: pair[0])
    chosen = np.array([index for _, index in ranked[:count]], dtype=np.int64)
    return np.random.default_rng((0, 4)).permutation(chosen)


def statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean and standard deviation of each channel for images in [0, 1], and the number of images used.

    All images are used if they are in memory, otherwise 4096 images spread over the classes. The standard deviation is
    at least 1/255, so that it can be a divisor.
    """
    indices = (
        np.arange(len(split)) if isinstance(split, MemorySplit) else spread(split.labels.numpy(), _STATISTICS_IMAGES)
    )
    counts = torch.zeros(0)
    for chunk in torch.split(torch.from_numpy(indices), _CHUNK):
        images = split.images(chunk)
        levels = torch.stack([torch.bincount(one.flatten(), minlength=256) for one in images.unbind(1)]).cpu()
        counts = levels if len(counts) == 0 else counts + levels
    # Counts of levels are integers, so the sums depend neither on the order of images nor on the device.
    weights = counts.double() / counts.sum(1, keepdim=True)
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ level
    std = ((weights * (level - mean[:, None]) ** 2).sum(1)).sqrt().clamp_min(1 / 255)
    return tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) for v in std.tolist()), len(indices)
