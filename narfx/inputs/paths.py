"""Paths that files name: taken from that file's folder where they lead somewhere there, else from the working folder.

A run moves with its directory: what its config names is stored as seen from the run, and no absolute path is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from narfx.inputs.model_ref import ModelRef

__all__ = ["find", "find_source", "move", "move_model", "move_operators", "move_source"]


def find(path: str, folder: Path | None) -> Path:
    """Where a path that a file in ``folder`` names leads."""
    there = Path(os.path.normpath((folder or Path()).resolve() / path))
    return there if there.exists() else Path(path)


def move(path: str, folder: Path, *, start: Path | None = None) -> str:
    """A path, so far seen from ``start``, as a file in ``folder`` names it."""
    return os.path.relpath(find(path, start).resolve(), folder.resolve())


def move_model(reference: str, folder: Path, *, start: Path | None = None) -> str:
    """The same for a model reference or an ``arch.json``."""
    if reference.endswith(".json"):
        return move(reference, folder, start=start)
    return str(ModelRef.parse(reference).beside(folder, relative_to=start))


def move_operators(files: Iterable[str], folder: Path, *, start: Path | None = None) -> tuple[str, ...]:
    """The same for files of operators."""
    return tuple(move(file, folder, start=start) for file in files)


def move_source(source: str, folder: Path, *, start: Path | None = None) -> str:
    """The same for the path in a data source; what is no path stays."""
    head, path, tail = _split(source, start)
    return source if path is None else f"{head}{move(path, folder, start=start)}{tail}"


def find_source(source: str, folder: Path | None) -> str:
    """A data source that a file in ``folder`` names, with the path in it found."""
    head, path, tail = _split(source, folder)
    return source if path is None else f"{head}{find(path, folder)}{tail}"


def _split(source: str, folder: Path | None) -> tuple[str, str | None, str]:
    """What stands before the path in a source, the path, and what stands behind it."""
    if find(source, folder).exists():
        return "", source, ""
    head, _, rest = source.partition(":")
    if head == "torchvision" and ":" in rest:
        name, _, root = rest.partition(":")
        return f"{head}:{name}:", root, ""
    if head.endswith(".py"):
        return "", head, f":{rest}"
    return "", None, ""
