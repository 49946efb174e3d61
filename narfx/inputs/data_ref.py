"""A data source as a user writes it, read into its parts: the one place that knows the grammar.

=======================  ====================================================================
``digits``               scikit-learn's digits
``torchvision:NAME:ROOT``  a torchvision data set stored in the folder ROOT
``file.py:factory``      a callable in that file
``package.module:factory``  the same in an importable module
a path                   a folder of images, or a file (``.npz``, ``.tar``, ``.bin``)
=======================  ====================================================================

A folder that exists is a path, whatever its name looks like. Nothing is opened here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

__all__ = ["DataRef"]


@dataclass(frozen=True)
class DataRef:
    """The parts of a data source; ``str`` gives its text.

    ``place`` is a path, except for ``module`` (the dotted module) and ``digits`` (empty). ``name`` is the factory, or
    the name of torchvision's data set.
    """

    kind: Literal["digits", "torchvision", "file", "module", "path"]
    place: str = ""
    name: str = ""

    @classmethod
    def parse(cls, text: str, relative_to: Path | None = None) -> DataRef:
        """Read a source; ``relative_to`` is a folder in which a folder of images is looked for first."""
        if text == "digits":
            return cls("digits")
        head, _, rest = text.partition(":")
        if head == "torchvision":
            name, _, root = rest.partition(":")
            return cls("torchvision", root, name)
        if any((folder / text).is_dir() for folder in (relative_to or Path(), Path())):
            return cls("path", text)
        place, _, name = text.rpartition(":")
        if name.isidentifier() and place.endswith(".py"):
            return cls("file", place, name)
        if name.isidentifier() and all(word.isidentifier() for word in place.split(".")):
            return cls("module", place, name)
        return cls("path", text)

    def __str__(self) -> str:
        if self.kind == "torchvision":
            return ":".join(part for part in ("torchvision", self.name, self.place) if part)
        return f"{self.place}:{self.name}" if self.name else self.place or self.kind

    @property
    def path(self) -> str | None:
        """The path in the source, if there is one."""
        return None if self.kind == "module" else self.place or None

    def at(self, path: str) -> DataRef:
        """The same source with another path."""
        return replace(self, place=path)
