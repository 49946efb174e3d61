"""A data source as a user writes it, read into its parts: the one place that knows the grammar.

=======================  ====================================================================
``SCHEME:PATH``          any scheme that :func:`narfx.data.registry.register_source` was given
``digits``               scikit-learn's digits: a scheme without a path
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
from typing import NamedTuple

__all__ = ["KINDS", "DataRef", "Stated", "add_scheme", "remove_scheme"]

KINDS = ("file", "module", "path")
"""The kinds of sources that need no scheme."""


class Stated(str):
    """The text of a source that stands in a file, and that the user has not written on the command line."""


class _Scheme(NamedTuple):
    takes_name: bool
    takes_path: bool


_SCHEMES: dict[str, _Scheme] = {}


def add_scheme(scheme: str, *, takes_name: bool, takes_path: bool) -> None:
    """Make ``SCHEME``, ``SCHEME:PATH`` or ``SCHEME:NAME:PATH`` a source; what reads it: :mod:`narfx.data.registry`."""
    _SCHEMES[scheme] = _Scheme(takes_name, takes_path)


def remove_scheme(scheme: str) -> None:
    """Undo :func:`add_scheme`; a scheme that does not exist is no error."""
    _SCHEMES.pop(scheme, None)


@dataclass(frozen=True)
class DataRef:
    """The parts of a data source; ``str`` gives its text.

    ``kind`` is one of ``KINDS`` or a registered scheme. ``place`` is a path, except for ``module`` (the dotted module);
    it is empty for a scheme without a path, such as ``digits``. ``name`` is the factory, or the name of a data set in
    ``SCHEME:NAME:PATH``. ``stated`` says that a file names the source: see :mod:`narfx.inputs.trust`.
    """

    kind: str
    place: str = ""
    name: str = ""
    stated: bool = False

    @classmethod
    def parse(cls, text: str, relative_to: Path | None = None) -> DataRef:
        """Read a source; ``relative_to`` is a folder in which a folder of images is looked for first."""
        return replace(cls._parse(text, relative_to), stated=isinstance(text, Stated))

    @classmethod
    def _parse(cls, text: str, relative_to: Path | None) -> DataRef:
        head, colon, rest = text.partition(":")
        scheme = _SCHEMES.get(head)
        if scheme is not None and (scheme.takes_path or not colon):
            name, _, place = rest.partition(":") if scheme.takes_name else ("", "", rest)
            return cls(head, place, name)
        if any((folder / text).is_dir() for folder in (relative_to or Path(), Path())):
            return cls("path", text)
        place, _, name = text.rpartition(":")
        if name.isidentifier() and place.endswith(".py"):
            return cls("file", place, name)
        if name.isidentifier() and all(word.isidentifier() for word in place.split(".")):
            return cls("module", place, name)
        return cls("path", text)

    def __str__(self) -> str:
        if self.kind not in KINDS:
            return ":".join(part for part in (self.kind, self.name, self.place) if part)
        return f"{self.place}:{self.name}" if self.name else self.place

    @property
    def path(self) -> str | None:
        """The path in the source, if there is one."""
        return None if self.kind == "module" else self.place or None

    def at(self, path: str) -> DataRef:
        """The same source with another path."""
        return replace(self, place=path)
