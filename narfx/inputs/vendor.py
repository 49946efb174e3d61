"""Python files of the user's that a bundle takes along, so that it is proven from its own files wherever it lies."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from narfx.inputs.model_ref import ModelRef
from narfx.inputs.paths import find

__all__ = ["carry_model", "carry_operators"]


def carry_operators(files: Iterable[str], start: Path, bundle: Path) -> tuple[str, ...]:
    """Copy files of operators, named as seen from ``start``, into ``bundle``; their names as seen from there."""
    places: dict[Path, str] = {}
    names = []
    for file in files:
        found = find(file, start).resolve()
        # Files of one folder stay together, and those of another cannot take their place.
        place = places.setdefault(found.parent, f"operators/{len(places)}" if places else "operators")
        _copy(found, bundle / place)
        names.append(f"{place}/{found.name}")
    return tuple(names)


def carry_model(reference: str, start: Path, bundle: Path) -> str:
    """The same for the file of a model reference, which goes to ``base/``; any other reference stays."""
    ref = ModelRef.parse(reference)
    if ref.kind != "file":
        return reference
    found = Path(os.path.normpath(find(ref.name, start).absolute()))
    _copy(found, bundle / "base")
    return str(replace(ref, name=f"base/{found.name}"))


def _copy(file: Path, target: Path) -> None:
    """Copy a file and what it imports from its own folder, and what that imports; a package goes as a whole."""
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
    """The first names of what a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found
