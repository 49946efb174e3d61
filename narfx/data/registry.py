"""The registry of data sources: the function that reads each scheme and each suffix of a file.

A scheme is what stands before the first colon of a source: ``torchvision`` in ``torchvision:cifar10:ROOT``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from narfx.data.arrays import Source
from narfx.data.forms import all_forms
from narfx.data.parts import Shape
from narfx.errors import UsageError
from narfx.inputs import data_ref
from narfx.inputs.data_ref import DataRef

__all__ = ["SourceReader", "find_reader", "register_source", "source_forms", "unregister_source"]

SourceReader = Callable[[DataRef, Shape, int], Source]
"""Reads a source, for a network's input (C, H, W), with so many bytes of memory for images fitted to it."""


class _Entry(NamedTuple):
    read: SourceReader
    form: str


_ENTRIES: dict[str, _Entry] = {}


def register_source(
    name: str, read: SourceReader, *, form: str | None = None, takes_name: bool = False, takes_path: bool = True
) -> None:
    """Register what reads one form of data source, for every place that takes a source (``--data``, configurations).

    Args:
        name: A scheme, ``lmdb`` for sources ``lmdb:PATH``; or a suffix, ``.h5`` for files that end in it.
        read: Called with the parsed source, whose ``place`` is PATH, with the network's input (C, H, W), and with the
            number of bytes that images fitted to it may take in memory. While the input is not known yet, that number
            is 0: images are then given in their own size, because it decides the input.
            :func:`narfx.data.arrays.from_arrays` makes the result of arrays. It raises ``UsageError`` for what it
            cannot read.
        form: How error messages write the form [``NAME:PATH``, or the suffix].
        takes_name: Whether sources are ``SCHEME:NAME:PATH``; ``read`` finds NAME in ``name`` of the parsed source.
        takes_path: Whether a path belongs to it; without one, only the scheme alone is such a source. Paths in the
            configuration of a run are rewritten when it moves.

    Raises:
        UsageError: The name is registered already, or is neither an identifier nor a suffix.
    """
    key = name.lower() if name.startswith(".") else name
    if key in _ENTRIES or key in data_ref.KINDS:
        raise UsageError(
            f"the data source {name!r} exists already: choose another name", where=name, kind="source_exists"
        )
    if not name.removeprefix(".").isidentifier():
        raise UsageError(
            f"{name!r} cannot name a data source: use an identifier such as lmdb, or a suffix such as .h5",
            where=name,
            kind="source_name",
        )
    if not key.startswith("."):
        data_ref.add_scheme(key, takes_name=takes_name, takes_path=takes_path)
    _ENTRIES[key] = _Entry(read, form or _default_form(key, takes_path))


def _default_form(name: str, takes_path: bool) -> str:
    return f"a file {name}" if name.startswith(".") else f"{name}:PATH" if takes_path else name


def unregister_source(name: str) -> None:
    """Remove a form of data source; ``KeyError`` where there is none."""
    del _ENTRIES[name]
    data_ref.remove_scheme(name)


def find_reader(name: str) -> SourceReader | None:
    """What reads this scheme or suffix, if anything does."""
    entry = _ENTRIES.get(name)
    return None if entry is None else entry.read


def source_forms() -> str:
    """All forms of data sources, for messages."""
    return all_forms(entry.form for entry in _ENTRIES.values())
