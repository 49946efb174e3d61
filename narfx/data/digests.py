"""The digest of a data set: cheap on large folders, equal wherever the data lie.

Labels, names without folders, and sizes of all images count, and the content as the source holds it (a file's bytes, an
array's pixels) of evenly spaced images, :data:`READ` bytes of them in each part: all images of a part that is no
larger. Times and folders do not count. What it cannot find is an image of a larger part that was replaced by another of
the same name and size, where it is not among those that are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from narfx.data.parts import Part
from narfx.support.seals import digest

__all__ = ["READ", "data_digest"]

READ = 256 * 1024**2


def data_digest(classes: Iterable[str], parts: Iterable[Part | None]) -> str:
    """The digest of a data set with these classes and parts, ``None`` for a part that it does not have."""
    return digest([*classes, *(digest(() if part is None else _of_part(part)) for part in parts)])


def _of_part(part: Part) -> Iterator[bytes | str]:
    names, sizes = part.listing()
    yield part.labels.tobytes()
    yield "\n".join(names)
    yield " ".join(map(str, sizes))
    for index in range(0, len(part.labels), max(-(-sum(sizes) // READ), 1)):
        yield part.stored(index)
