"""Operator files: Python files of the user that call ``narfx.register_operator``; they run like model files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from narfx.errors import UsageError
from narfx.inputs.paths import find
from narfx.inputs.trust import is_named
from narfx.inputs.user_code import close_names, execute_file, importable, user_code
from narfx.operators.registry import operators_of, registration
from narfx.space.architecture import DEFAULT_OPERATORS

__all__ = ["choose_operators", "load_operators"]


def load_operators(path: Path | str, *, relative_to: Path | None = None) -> tuple[str, ...]:
    """Run a file and return the names of the operators that it registers.

    A file may be loaded many times; the operators are always those of its present content.

    Args:
        path: The file, as a user or an ``arch.json`` names it.
        relative_to: The folder of the file that names it, if a file does; it is searched first.

    Returns:
        The names, in the order of registration.

    Raises:
        UsageError: The file does not exist, may not run, fails, registers nothing, or uses a taken name. Then none of
            its operators is registered.
    """
    found = find(str(path), relative_to)
    if found.suffix != ".py" or not found.is_file():
        raise UsageError(
            f"there is no operator file {path}: name a Python file that calls narfx.register_operator",
            where=str(path),
            kind="missing_file",
        )
    found, named = found.resolve(), is_named(str(found), stated=relative_to is not None)
    with registration(), contextlib.redirect_stdout(sys.stderr), importable(found.parent, siblings=True, named=named):
        with user_code(f"cannot import {path}", where=str(path), kind="import_failed"):
            module = execute_file(found, named=named)
        names = operators_of(module.__name__, found)
        if not names:
            raise UsageError(
                f"{path} registers no operator: call narfx.register_operator(narfx.Operator(...)) in it",
                where=str(path),
                kind="no_operators",
            )
    return names


def choose_operators(entries: Sequence[str], files: Iterable[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Resolve a list of operators from the command line.

    An entry is the name of an operator, ``FILE.py`` for all operators of a file, or ``FILE.py:NAME`` for one of them.
    If no entry is a plain name, the operators are added to the default list. Without entries, all operators of
    ``files`` are added.

    Returns:
        The operators' names, and the files that they come from.

    Raises:
        UsageError: A file is missing or wrong, or does not register that name.
    """
    entries, files = list(entries), dict.fromkeys(files)
    if not entries:
        entries = list(files)
    plain = [entry for entry in entries if not _split(entry)[0]]
    names = [] if plain else list(DEFAULT_OPERATORS)
    known = {file: load_operators(file) for file in files}
    for entry in entries:
        file, name = _split(entry)
        if not file:
            names.append(entry)
            continue
        if file not in known:
            known[file] = load_operators(file)
        if name and name not in known[file]:
            close = close_names(name, known[file])
            hint = f"did you mean {' or '.join(close)}?" if close else f"it registers {', '.join(known[file])}"
            raise UsageError(f"{file} has no operator {name!r}: {hint}", where=entry, kind="unknown_operator")
        names += [found for found in ([name] if name else known[file]) if found not in (*names, *plain)]
    return tuple(names), tuple(known)


def _split(entry: str) -> tuple[str, str]:
    """(file, name) of an entry; either may be empty."""
    head, _, name = entry.rpartition(":")
    if head.endswith(".py"):
        return head, name
    return (entry, "") if entry.endswith(".py") else ("", entry)
