"""Encoded images inside another file (``.tar``, ``.bin``) as a part of a data set."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from narfx.data.arrays import Source
from narfx.data.folders import SUFFIXES
from narfx.data.parts import FORMATS, GREY_MODES, IntArray, Shape, check_image, from_pil, in_threads, probes, unreadable
from narfx.errors import UsageError
from narfx.support.text import count

__all__ = ["StoredPart", "read_tar"]

_CHEAP = 256 * 1024**2  # bytes; to see the header of a stored image is to read all of it
_PROBES = 1024


class StoredPart:
    """Images decoded by threads.

    ``stored`` returns the encoded image of an index, ``names`` are for messages, ``sizes`` are in bytes. Without
    ``enlarge`` an image that is smaller than the network's input is refused when it is read.
    """

    def __init__(
        self, stored: Callable[[int], bytes], names: Sequence[str], sizes: Sequence[int], labels: IntArray, *,
        enlarge: bool = True,
    ) -> None:  # fmt: skip
        self.stored, self.names, self._bytes, self.labels, self._enlarge = stored, names, sizes, labels, enlarge
        seen = probes(len(names)) if sum(sizes) <= _CHEAP else probes(len(names), _PROBES)
        probed = [self._header(index) for index in seen]
        self.channels = 1 if all(mode in GREY_MODES for mode, _ in probed) else 3
        self.sizes = tuple(sorted({size for _, size in probed}))

    def read(self, indices: IntArray, shape: Shape) -> torch.Tensor:
        """See :class:`narfx.data.parts.Part`; grey images among colour images are repeated here."""
        return torch.cat(in_threads(lambda index: self._decode(index, shape), indices.tolist()))

    def listing(self) -> tuple[Sequence[str], Sequence[int]]:
        """See :class:`narfx.data.parts.Part`; the names would name the file that the images lie in."""
        return [], self._bytes

    def _header(self, index: int) -> tuple[str, tuple[int, int]]:
        try:
            with Image.open(io.BytesIO(self.stored(index)), formats=FORMATS) as image:
                return image.mode, (image.height, image.width)
        except Exception as error:  # Pillow's parsers can raise any exception
            raise unreadable(self.names[index], error) from error

    def _decode(self, index: int, shape: Shape) -> torch.Tensor:
        try:
            with Image.open(io.BytesIO(self.stored(index)), formats=FORMATS) as image:
                if not self._enlarge:
                    check_image(image, shape, self.names[index])
                return from_pil(image, shape)
        except UsageError:
            raise
        except Exception as error:  # as in _header
            raise unreadable(self.names[index], error) from error


def read_tar(path: Path, *, enlarge: bool = True) -> Source:
    """Read an uncompressed ``.tar`` of ``ANY/FOLDERS/CLASS/*.jpg`` as a source without parts; it is never unpacked.

    ``enlarge`` is as for :class:`StoredPart`.

    Raises:
        UsageError: It is compressed, damaged, or does not have one folder for each class.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isreg() and not member.issparse()]
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UsageError(
            f"{path} is not an uncompressed .tar, or it is damaged ({error}): unpack it and name the folder",
            where=str(path),
            kind="bad_tar",
        ) from error
    places = {PurePosixPath(member.name): (member.offset_data, member.size) for member in members}
    images = sorted(
        place for place in places if place.suffix.lower() in SUFFIXES and not place.name.startswith(".")
    )  # fmt: skip
    folders = sorted({place.parent for place in images})
    classes = [folder.name for folder in folders]
    if not images or {"", ".."} & set(classes) or len(set(classes)) < len(classes):
        raise UsageError(
            f"{path} has {count(len(images), 'image')} in {count(len(folders), 'folder')}: it must have one folder "
            "with its own name for "
            "each class",
            where=str(path),
            kind="empty_data",
        )
    number = {folder: index for index, folder in enumerate(folders)}

    def content(index: int) -> bytes:
        offset, size = places[images[index]]
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    labels = np.array([number[place.parent] for place in images], dtype=np.int64)
    names, sizes = [f"{path}:{place}" for place in images], [places[place][1] for place in images]
    part = StoredPart(content, names, sizes, labels, enlarge=enlarge)
    return Source(tuple(classes), part, notes=("test: none, a .tar has no parts",))
