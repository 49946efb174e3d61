"""Paths inside files: relative to the folder of that file if they exist there, otherwise to the working folder.

So a run can be moved with its folder: the paths in its config are relative to the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from narfx.inputs.model_ref import ModelRef

__all__ = ["find", "find_source", "move", "move_model", "move_operators", "move_source"]


def find(path: str, folder: Path | None) -> Path:
    """Resolve a path that is written in a file in ``folder``."""
    there = Path(os.path.normpath((folder or Path()).resolve() / path))
    return there if there.exists() else Path(path)


def move(path: str, folder: Path, *, start: Path | None = None) -> str:
    """A path relative to ``start``, rewritten relative to ``folder``."""
    return os.path.relpath(find(path, start).resolve(), folder.resolve())


def move_model(reference: str, folder: Path, *, start: Path | None = None) -> str:
    """:func:`move` for a model reference or the path of an ``arch.json``."""
    if reference.endswith(".json"):
        return move(reference, folder, start=start)
    return str(ModelRef.parse(reference).beside(folder, relative_to=start))


def move_operators(files: Iterable[str], folder: Path, *, start: Path | None = None) -> tuple[str, ...]:
    """:func:`move` for operator files."""
    return tuple(move(file, folder, start=start) for file in files)


def move_source(source: str, folder: Path, *, start: Path | None = None) -> str:
    """:func:`move` for the path in a data source; a source without a path stays the same."""
    head, path, tail = _split(source, start)
    return source if path is None else f"{head}{move(path, folder, start=start)}{tail}"


def find_source(source: str, folder: Path | None) -> str:
    """A data source that is written in a file in ``folder``, with its path resolved."""
    head, path, tail = _split(source, folder)
    return source if path is None else f"{head}{find(path, folder)}{tail}"


def _split(source: str, folder: Path | None) -> tuple[str, str | None, str]:
    """(text before the path, path or ``None``, text after it) of a data source."""
    if find(source, folder).exists():
        return "", source, ""
    head, _, rest = source.partition(":")
    if head == "torchvision" and ":" in rest:
        name, _, root = rest.partition(":")
        return f"{head}:{name}:", root, ""
    if head.endswith(".py"):
        return "", head, f":{rest}"
    return "", None, ""
