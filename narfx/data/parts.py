"""Parts of a data set at their source: labels, and images that are read and fitted on demand.

Every reader returns uint8 images ``(B, c, H, W)`` with the network's height and width. ``c`` is the network's number of
channels, or 1 for grey images that are repeated later (which saves two thirds of the memory).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from narfx.errors import UsageError
from narfx.support.files import check_regular
from narfx.support.text import count

__all__ = [
    "FORMATS",
    "GREY_MODES",
    "ArrayPart",
    "FilePart",
    "IntArray",
    "ItemPart",
    "Part",
    "Shape",
    "check_channels",
    "decode",
    "fit",
    "from_pil",
    "image_of",
    "in_threads",
    "probes",
    "unreadable",
]

IntArray = NDArray[np.int64]
Shape = tuple[int, int, int]

GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
# Some of Pillow's readers start other programs (Ghostscript for EPS); they are never used, whatever the suffix.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
_PROBES = 64


class Part(Protocol):
    """One part of a source.

    Attributes:
        labels: (N,) class numbers.
        channels: The number of channels of the images.
        sizes: The (height, width) values that were seen.
    """

    labels: IntArray
    channels: int
    sizes: tuple[tuple[int, int], ...]

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """The images at ``indices`` as uint8 ``(B, c, H, W)`` on the CPU, fitted to ``shape`` (C, H, W)."""
        ...


def check_channels(have: int, want: int, where: str, *, repeat_grey: bool = True) -> None:
    """Refuse images that cannot be converted to the network's channels.

    Possible are the same number, grey images that are repeated (if ``repeat_grey``), and colour images for a network
    with one channel.

    Raises:
        UsageError: The number of channels does not fit.
    """
    if have == 1 < want and not repeat_grey:
        raise UsageError(
            f"the images are grey, but the network takes {count(want, 'channel')}: give colour images, or repeat "
            "the grey "
            "channel with --task-option grey=repeat",
            where=where,
            kind="grey_images",
        )
    if have not in (1, want) and (have, want) != (3, 1):
        raise UsageError(
            f"the images have {count(have, 'channel')}, but the network takes {want}: give images of "
            f"{count(want, 'channel')}, or grey "
            "images (arrays have the channels last: N, H, W, C)",
            where=where,
            kind="channels",
        )


def fit(images: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Resize uint8 ``(B, c, h, w)`` to H and W (antialiased bilinear), and convert colour to luminance if C is 1."""
    channels, height, width = shape
    if images.shape[1] == 3 and channels == 1:
        red, green, blue = images.int().unbind(1)
        # ITU-R 601 in 16-bit fixed point, as in Pillow, so that files and arrays give the same grey.
        images = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8).unsqueeze(1)
    if images.shape[2:] != (height, width):
        images = functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images


class ArrayPart:
    """Images in one array, uint8 ``(N, H, W, C)``; ``channels`` and ``sizes`` if those of the source were different."""

    def __init__(
        self, images: NDArray[np.uint8], labels: IntArray, channels: int | None = None,
        sizes: tuple[tuple[int, int], ...] | None = None,
    ) -> None:  # fmt: skip
        self.images, self.labels = images, labels
        self.channels = channels or int(images.shape[3])
        self.sizes = sizes or ((int(images.shape[1]), int(images.shape[2])),)

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """See :class:`Part`."""
        images = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2)
        return fit(images.contiguous(), shape)


class FilePart:
    """Image files, decoded by threads; ``channels`` and ``sizes`` are read from the headers of a few files."""

    def __init__(self, paths: Sequence[Path], labels: IntArray) -> None:
        self.paths, self.labels = paths, labels
        probed = [_header(paths[index]) for index in probes(len(paths))]
        self.channels = 1 if all(mode in GREY_MODES for mode, _ in probed) else 3
        self.sizes = tuple(sorted({size for _, size in probed}))

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """See :class:`Part`; grey files among colour files are repeated here."""
        return torch.cat(in_threads(lambda index: decode(self.paths[index], shape), indices.tolist()))


class ItemPart:
    """Items of the user's own data set, read one by one, because its code may not be thread-safe.

    ``image`` maps an index to a uint8 image ``(1, c, h, w)``.
    """

    def __init__(
        self, image: Callable[[int], torch.Tensor], labels: IntArray, channels: int, sizes: tuple[tuple[int, int], ...]
    ) -> None:
        self._image, self.labels, self.channels, self.sizes = image, labels, channels, sizes

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """See :class:`Part`; grey images among colour images are repeated here."""
        return torch.cat([fit(self._image(i), shape).expand(-1, shape[0], -1, -1) for i in indices.tolist()])


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(os.cpu_count() or 1, 16), thread_name_prefix="narfx-decode")


def in_threads(read: Callable[[int], torch.Tensor], indices: Sequence[int]) -> list[torch.Tensor]:
    """The result of ``read`` for each index, in order; images are decoded without Python's global lock."""
    return list(_threads().map(read, indices))


def probes(count: int) -> range:
    """The indices of the images whose channels and sizes are read, of ``count`` images."""
    return range(0, count, max(count // _PROBES, 1))


def unreadable(path: Path | str, error: Exception) -> UsageError:
    """The error for an image that cannot be decoded."""
    cause = " ".join(str(error).split()) or type(error).__name__
    return UsageError(
        f"{path} cannot be decoded as an image ({cause}): replace or remove it",
        where=str(path),
        kind="undecodable_image",
    )


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    check_regular(path, f"there is no file {path}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode, (image.height, image.width)
    except Exception as error:  # Pillow's parsers can raise any exception
        raise unreadable(path, error) from error


def decode(path: Path, shape: Shape) -> torch.Tensor:
    """One file as uint8 ``(1, c, H, W)``: three channels if the network has three, otherwise grey.

    Raises:
        UsageError: Pillow cannot read the file, it is truncated, or it has more than 16 bits per channel.
    """
    check_regular(path, f"there is no file {path}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            return from_pil(image, shape)
    except Exception as error:  # as in _header
        raise unreadable(path, error) from error


def from_pil(image: Image.Image, shape: Shape) -> torch.Tensor:
    """A Pillow image as uint8 ``(1, c, H, W)``, fitted to ``shape``; transparency is dropped."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (mode {image.mode}): save it with 8 or 16 bits per channel")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    channels, height, width = shape
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        # Pillow's resize releases Python's lock and starts no threads; it agrees with ``fit`` to one or two levels.
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.view(1, height, width, -1).permute(0, 3, 1, 2)


def image_of(value: Any, shape: Shape) -> torch.Tensor:
    """An image of a user's data set, as uint8 ``(1, c, h, w)``.

    ``value`` is a Pillow image, a uint8 array ``(h, w)`` or ``(h, w, c)``, or a tensor ``(h, w)`` or ``(c, h, w)`` that
    is uint8 or a float in [0, 1].

    Raises:
        ValueError: It is something else; the message says what.
    """
    if isinstance(value, Image.Image):
        return from_pil(value, shape)
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim not in (2, 3):
            raise ValueError(f"an array must be uint8 of shape (H, W) or (H, W, C), not {value.dtype} {value.shape}")
        pixels = torch.from_numpy(np.array(value))
        return (pixels[None] if value.ndim == 2 else pixels.permute(2, 0, 1))[None].contiguous()
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"an image must be a Pillow image, an array or a tensor, not {type(value).__name__}")
    if value.ndim not in (2, 3) or not (value.dtype == torch.uint8 or value.is_floating_point()):
        raise ValueError(
            f"a tensor must be uint8 or float, (H, W) or (C, H, W), not {value.dtype} {tuple(value.shape)}"
        )
    pixels = value.detach().cpu()
    if pixels.is_floating_point():
        low, high = pixels.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"a float tensor must lie in [0, 1], not in [{low:.3g}, {high:.3g}]: leave out Normalize")
        pixels = (pixels * 255).round().to(torch.uint8)
    return (pixels[None] if pixels.ndim == 2 else pixels)[None].contiguous()
