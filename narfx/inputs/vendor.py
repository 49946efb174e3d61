"""Copy the user's Python files into a bundle, so that it can be checked from its own files in any place."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from narfx.inputs.paths import find
from narfx.inputs.reference import ModelRef

__all__ = ["carry_model", "carry_operators"]


def carry_operators(files: Iterable[str], start: Path, bundle: Path) -> tuple[str, ...]:
    """Copy operator files, with paths relative to ``start``, into ``bundle``; returns their paths relative to it."""
    places: dict[Path, str] = {}
    names = []
    for file in files:
        found = find(file, start).resolve()
        # Files of one folder stay together; files of another folder cannot overwrite them.
        place = places.setdefault(found.parent, f"operators/{len(places)}" if places else "operators")
        _copy(found, bundle / place)
        names.append(f"{place}/{found.name}")
    return tuple(names)


def carry_model(reference: str, start: Path, bundle: Path) -> str:
    """Copy the file of a model reference to ``base/`` and return the new reference; others stay the same."""
    ref = ModelRef.parse(reference)
    if ref.kind != "file":
        return reference
    found = Path(os.path.normpath(find(ref.name, start).absolute()))
    _copy(found, bundle / "base")
    return str(replace(ref, name=f"base/{found.name}"))


def _copy(file: Path, target: Path) -> None:
    """Copy a file and everything that it imports from its own folder, recursively; packages are copied whole."""
    home, waiting, done = file.parent, [file], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        copied = target / path.relative_to(home)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
        for name in _imports(path):
            if (home / f"{name}.py").is_file():
                waiting.append(home / f"{name}.py")
            if (home / name).is_dir():
                waiting += sorted((home / name).rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found
