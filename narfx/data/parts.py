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
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from narfx.errors import UsageError
from narfx.inputs.image_size import enlarging
from narfx.support.files import check_regular
from narfx.support.text import count, times

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
    "check_image",
    "decode",
    "fit",
    "from_pil",
    "image_of",
    "in_threads",
    "probes",
    "unreadable",
]

V = TypeVar("V")
IntArray = NDArray[np.int64]
Shape = tuple[int, int, int]

GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
# Some of Pillow's readers start other programs (Ghostscript for EPS); they are never used, whatever the suffix.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
_PROBES = 20_000  # 40,000 headers of files take 3 s


class Part(Protocol):
    """One part of a source.

    Attributes:
        labels: (N,) class numbers.
        channels: The number of channels of the images.
        sizes: The (height, width) values that were seen; of very many files not all are looked at.
    """

    labels: IntArray
    channels: int
    sizes: tuple[tuple[int, int], ...]

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """The images at ``indices`` as uint8 ``(B, c, H, W)`` on the CPU, fitted to ``shape`` (C, H, W).

        A part may refuse an image that would be enlarged, though its ``sizes`` do not show it.
        """
        ...

    def listing(self) -> tuple[Sequence[str], Sequence[int]]:
        """The names of the images, without folders and where they have any, and their sizes in bytes."""
        ...

    def stored(self, index: int) -> bytes:
        """One image as the source holds it: the bytes of a file, or pixels."""
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
    """Images in one array, uint8 ``(N, H, W, C)``; ``channels`` and ``sizes`` if those of the source were different.

    ``steady`` says that the source gives the same images each time.
    """

    def __init__(
        self, images: NDArray[np.uint8], labels: IntArray, channels: int | None = None,
        sizes: tuple[tuple[int, int], ...] | None = None, steady: bool = True,
    ) -> None:  # fmt: skip
        self.images, self.labels, self._steady = images, labels, steady
        self.channels = channels or int(images.shape[3])
        self.sizes = sizes or ((int(images.shape[1]), int(images.shape[2])),)

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """See :class:`Part`."""
        images = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2)
        return fit(images.contiguous(), shape)

    def listing(self) -> tuple[Sequence[str], Sequence[int]]:
        """See :class:`Part`; the images of an array have one shape and no names."""
        return [f"{self.images.shape}"], [self.images[0].nbytes] * len(self.images)

    def stored(self, index: int) -> bytes:
        """See :class:`Part`; nothing where the source draws its images at random."""
        return self.images[index].tobytes() if self._steady else b""


class FilePart:
    """Image files, decoded by threads; ``channels`` and ``sizes`` are read from up to 40,000 headers.

    Without ``enlarge`` an image that is smaller than the network's input is refused when it is read.
    """

    def __init__(self, paths: Sequence[Path], labels: IntArray, *, enlarge: bool = True) -> None:
        self.paths, self.labels, self._enlarge = paths, labels, enlarge
        probed = [_header(paths[index]) for index in probes(len(paths))]
        self.channels = 1 if all(mode in GREY_MODES for mode, _ in probed) else 3
        self.sizes = tuple(sorted({size for _, size in probed}))

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """See :class:`Part`; grey files among colour files are repeated here."""
        enlarge = self._enlarge
        return torch.cat(in_threads(lambda index: decode(self.paths[index], shape, enlarge), indices.tolist()))

    def listing(self) -> tuple[Sequence[str], Sequence[int]]:
        """See :class:`Part`."""
        return [path.name for path in self.paths], [_reading(path, Path.stat).st_size for path in self.paths]

    def stored(self, index: int) -> bytes:
        """See :class:`Part`."""
        return _reading(self.paths[index], Path.read_bytes)


class ItemPart:
    """Items of the user's own data set, read one by one, because its code may not be thread-safe.

    ``image`` maps an index to a uint8 image ``(1, c, h, w)``; ``steady`` says that it gives the same one each time.
    """

    def __init__(
        self, image: Callable[[int], torch.Tensor], labels: IntArray, channels: int, sizes: tuple[tuple[int, int], ...],
        steady: bool,
    ) -> None:  # fmt: skip
        self._image, self.labels, self.channels, self.sizes, self._steady = image, labels, channels, sizes, steady

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """See :class:`Part`; grey images among colour images are repeated here."""
        return torch.cat([fit(self._image(i), shape).expand(-1, shape[0], -1, -1) for i in indices.tolist()])

    def listing(self) -> tuple[Sequence[str], Sequence[int]]:
        """See :class:`Part`; sizes are known only of what has been read, so the largest stands for all."""
        return [], [max(height * width for height, width in self.sizes) * self.channels] * len(self.labels)

    def stored(self, index: int) -> bytes:
        """See :class:`Part`; nothing of a data set that draws its images at random."""
        return self._image(index).numpy().tobytes() if self._steady else b""


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(os.cpu_count() or 1, 16), thread_name_prefix="narfx-decode")


def in_threads(read: Callable[[int], torch.Tensor], indices: Sequence[int]) -> list[torch.Tensor]:
    """The result of ``read`` for each index, in order; images are decoded without Python's global lock."""
    return list(_threads().map(read, indices))


def probes(count: int, most: int = _PROBES) -> range:
    """The indices of the images whose channels and sizes are read, of ``count`` images: at least ``most`` of these."""
    return range(0, count, max(count // most, 1))


def check_image(image: Image.Image, shape: Shape, name: Path | str) -> None:
    """Refuse an image that would be enlarged to ``shape`` (C, H, W).

    Raises:
        UsageError: It is smaller, in height or in width.
    """
    if image.height < shape[1] or image.width < shape[2]:
        raise enlarging(f"{name} is {times((image.height, image.width))}", shape, "of the network's input")


def unreadable(path: Path | str, error: Exception) -> UsageError:
    """The error for an image that cannot be decoded."""
    cause = " ".join(str(error).split()) or type(error).__name__
    return UsageError(
        f"{path} cannot be decoded as an image ({cause}): replace or remove it",
        where=str(path),
        kind="undecodable_image",
    )


def _reading(path: Path, read: Callable[[Path], V]) -> V:
    check_regular(path, f"there is no file {path}")
    try:
        return read(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    check_regular(path, f"there is no file {path}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode, (image.height, image.width)
    except Exception as error:  # Pillow's parsers can raise any exception
        raise unreadable(path, error) from error


def decode(path: Path, shape: Shape, enlarge: bool = True) -> torch.Tensor:
    """One file as uint8 ``(1, c, H, W)``: three channels if the network has three, otherwise grey.

    Raises:
        UsageError: Pillow cannot read the file, it is truncated, it has more than 16 bits per channel, or it is smaller
            than ``shape`` and not to be enlarged.
    """
    check_regular(path, f"there is no file {path}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if not enlarge:
                check_image(image, shape, path)
            return from_pil(image, shape)
    except UsageError:
        raise
    except Exception as error:  # as in _header
        raise unreadable(path, error) from error


def from_pil(image: Image.Image, shape: Shape | None = None) -> torch.Tensor:
    """A Pillow image as uint8 ``(1, c, H, W)``, fitted to ``shape`` where it is given; transparency is dropped."""
    if shape is None:
        shape = (1 if image.mode in GREY_MODES else 3, image.height, image.width)
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


def image_of(value: Any) -> torch.Tensor:
    """An image of a user's data set, as uint8 ``(1, c, h, w)``.

    ``value`` is a Pillow image, a uint8 array ``(h, w)`` or ``(h, w, c)``, or a tensor ``(h, w)`` or ``(c, h, w)`` that
    is uint8 or a float in [0, 1].

    Raises:
        ValueError: It is something else; the message says what.
    """
    if isinstance(value, Image.Image):
        return from_pil(value)
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
