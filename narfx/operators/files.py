"""Files of operators: Python of the user's own, run as model files are, that calls ``narfx.register_operator``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from narfx.errors import UsageError
from narfx.inputs.paths import find
from narfx.inputs.user_code import close_names, execute_file, importable, user_code
from narfx.operators.registry import operators_of, registration
from narfx.space.architecture import DEFAULT_OPERATORS

__all__ = ["choose_operators", "load_operators"]


def load_operators(path: Path | str, *, relative_to: Path | None = None) -> tuple[str, ...]:
    """Run a file and return the names of the operators that it registers.

    A file may be loaded any number of times; each time its operators are those of its present content.

    Args:
        path: The file, as a user or an ``arch.json`` names it.
        relative_to: The folder of the file that names it, in which it is looked for first.

    Raises:
        UsageError: There is no such file, it fails, it registers nothing, or a name is taken; then nothing of it is
            registered.
    """
    found = find(str(path), relative_to)
    if found.suffix != ".py" or not found.is_file():
        raise UsageError(
            f"there is no file of operators {path}: name a Python file that calls narfx.register_operator",
            where=str(path),
            kind="missing_file",
        )
    found = found.resolve()
    with registration(), contextlib.redirect_stdout(sys.stderr), importable(found.parent, siblings=True):
        with user_code(f"cannot import {path}", where=str(path), kind="import_failed"):
            module = execute_file(found)
        names = operators_of(module.__name__, found)
        if not names:
            raise UsageError(
                f"{path} registers no operator: call narfx.register_operator(narfx.Operator(...)) in it",
                where=str(path),
                kind="no_operators",
            )
    return names


def choose_operators(entries: Sequence[str], files: Iterable[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that a list on a command line stands for, and the files that they come from.

    An entry is the name of an operator, ``FILE.py`` for all that the file registers, or ``FILE.py:NAME`` for one of
    them. Without a name among the entries they follow the default list; without any entry all of ``files`` do.

    Raises:
        UsageError: A file is missing or wrong, or has no operator of the name.
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
    """The file and the name in an entry; an entry without a file is a name."""
    head, _, name = entry.rpartition(":")
    if head.endswith(".py"):
        return head, name
    return (entry, "") if entry.endswith(".py") else ("", entry)
