"""Paths inside files: relative to the folder of that file if they exist there, otherwise to the working folder.

A run can be moved with its directory: its configuration holds paths relative to the run, and no absolute path is
needed. Which fields are paths is marked in the configurations (:mod:`narfx.support.path_fields`); here they are found,
listed and rewritten.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from narfx.inputs.data_ref import DataRef, Stated
from narfx.inputs.own_code import is_own
from narfx.inputs.reference import ModelRef, is_collection, is_file_name
from narfx.inputs.user_code import code_files
from narfx.support.path_fields import PathKind, path_fields
from narfx.support.seals import digest, file_digest

__all__ = [
    "code_places",
    "find",
    "find_source",
    "named_digests",
    "named_paths",
    "relocate",
    "relocated",
    "source_paths",
    "split_name",
]

M = TypeVar("M", bound=BaseModel)

_NAMED = re.compile(r"([\w.+-][\w .+-]*)=(.+\.json)")


def find(path: str, folder: Path | None) -> Path:
    """Resolve a path that is written in a file in ``folder``."""
    there = Path(os.path.normpath((folder or Path()).resolve() / path))
    return there if there.exists() else Path(path)


def find_source(source: str, folder: Path | None) -> str:
    """A data source that is written in a file in ``folder``, if one is given, with its path resolved."""
    ref = DataRef.parse(source, folder)
    found = source if ref.path is None else str(ref.at(str(find(ref.path, folder))))
    return found if folder is None else Stated(found)


def split_name(text: str, folder: Path | None = None) -> tuple[str | None, str]:
    """``NAME=A.json`` as name and path; no name for a path alone, or for a file whose own name looks like this."""
    found = _NAMED.fullmatch(text)
    return (None, text) if found is None or find(text, folder).is_file() else (found[1].strip(), found[2])


def relocated(config: M, folder: Path, *, start: Path | None = None) -> M:
    """A configuration whose paths start at ``start`` (the working folder without it), as a file in ``folder`` says it.

    Raises:
        UsageError: A model reference cannot be read, or names a file that does not exist.
    """
    return config.model_copy(update=relocate(type(config), dict(config), folder, start=start))


def relocate(
    schema: type[BaseModel], values: Mapping[str, Any], folder: Path, *, start: Path | None = None
) -> dict[str, Any]:
    """The path fields of ``schema`` among these values, as a file in ``folder`` says them.

    The values need not be valid yet: what is not a text, or a list of texts, is left out of the result.

    Raises:
        UsageError: As for :func:`relocated`.
    """
    return {
        name: _each(kind, values[name], folder, start)
        for name, kind in path_fields(schema).items()
        if name in values and (isinstance(values[name], str) or _are_texts(values[name]))
    }


def named_paths(config: BaseModel, start: Path | None = None) -> list[Path]:
    """Every file and folder that a configuration names, also as a module, where its paths start at ``start``.

    Raises:
        UsageError: A model reference cannot be read.
    """
    values = dict(config)
    texts = [(kind, text) for name, kind in path_fields(type(config)).items() for text in _texts(values[name])]
    return [place for kind, text in texts for place in _places(kind, text, start)]


def source_paths(source: str) -> list[Path]:
    """The files and folders that a data source names, also as a module."""
    return _places(PathKind.SOURCE, source, None)


def _places(kind: PathKind, text: str, start: Path | None) -> list[Path]:
    path = _path(kind, text, start)
    return _module_files(kind, text, start) if path is None else [find(path, start)]


def _module_files(kind: PathKind, text: str, start: Path | None) -> list[Path]:
    """The file of the module that a reference to a factory names; nothing is imported."""
    ref: ModelRef | DataRef | None = None
    if kind is PathKind.SOURCE:
        ref = DataRef.parse(text, start)
    elif _is_reference(kind, text, start):
        ref = ModelRef.parse(text)
    if ref is None or ref.kind != "module":
        return []
    parts = (ref.place if isinstance(ref, DataRef) else ref.name).split(".")
    for folder in (Path.cwd(), *map(Path, sys.path)):
        for path in (folder.joinpath(*parts).with_suffix(".py"), folder.joinpath(*parts, "__init__.py")):
            if path.is_file():
                return [path]
    return []


def named_digests(config: BaseModel, start: Path | None = None) -> dict[str, str]:
    """The digest of every file that a configuration names, by the file's name and the field.

    A Python file counts with all that it imported from its folder, so it must have been run. An ``arch.json`` and a
    data source are left out: a run holds its own copy of the first, and :mod:`narfx.data.digests` knows the second.

    Raises:
        UsageError: A model reference cannot be read, or a file cannot.
    """
    found: dict[str, str] = {}
    values = dict(config)
    for field, kind in path_fields(type(config)).items():
        for text in _texts(values[field]):
            path = None if kind in (PathKind.SOURCE, PathKind.NAMED) else _path(kind, text, start)
            place = None if path is None else find(path, start)
            if place is not None and place.is_file() and place.suffix != ".json":
                files = code_files(place) if place.suffix == ".py" else (place,)
                found[f"{place.name} ({field})"] = digest(map(file_digest, files))
    return found


def code_places(schema: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """The Python files and modules that values of ``schema`` name; the values need not be valid yet.

    Raises:
        UsageError: A model reference cannot be read.
    """
    kinds = {name: kind for name, kind in path_fields(schema).items() if name in values}
    return [place for name, kind in kinds.items() for text in _texts(values[name]) if (place := _code(kind, text))]


def _code(kind: PathKind, text: str) -> str | None:
    if kind is PathKind.SOURCE:
        source = DataRef.parse(text)
        return source.place if source.kind in ("file", "module") else None
    if _is_reference(kind, text, None):
        model = ModelRef.parse(text)
        return model.name if model.kind in ("file", "module") else None
    return text if text.endswith(".py") else None


def _texts(value: Any) -> Iterable[str]:
    return () if value is None else (value,) if isinstance(value, str) else value


def _are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value)


def _each(kind: PathKind, value: Any, folder: Path, start: Path | None) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return _rewritten(kind, value, folder, start)
    return tuple(_rewritten(kind, entry, folder, start) for entry in value)


def _rewritten(kind: PathKind, text: str, folder: Path, start: Path | None) -> str:
    """One text of a marked field as a file in ``folder`` says it; what holds no path stays."""
    if _is_reference(kind, text, start):
        return str(ModelRef.parse(text).beside(folder, relative_to=start))
    path = _path(kind, text, start)
    if path is None:
        return text
    moved = os.path.relpath(find(path, start).resolve(), folder.resolve())
    if kind is PathKind.SOURCE:
        return str(DataRef.parse(text, start).at(moved))
    return moved if path == text else f"{split_name(text, start)[0]}={moved}"


def _path(kind: PathKind, text: str, start: Path | None) -> str | None:
    """The path in one text of a marked field, if there is one."""
    if kind is PathKind.SOURCE:
        return DataRef.parse(text, start).path
    if kind is PathKind.CODE and not is_own(text):
        return None
    if _is_reference(kind, text, start):
        ref = ModelRef.parse(text)
        return ref.name if ref.kind == "file" else None
    return split_name(text, start)[1] if kind is PathKind.NAMED else text


def _is_reference(kind: PathKind, text: str, start: Path | None) -> bool:
    """Whether a text is a reference to code, and no ``arch.json``, ONNX file, folder or word."""
    if kind is PathKind.CODE:
        return is_own(text)
    if kind is PathKind.MODEL and is_collection(text):
        return True
    named = is_file_name(text, ".json", ".onnx") or not (":" in text or ".py" in text)
    return kind is PathKind.MODEL and not (named or find(text, start).is_dir())
