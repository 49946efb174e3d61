"""Which code may run that a file names, and the private record of the code that this user has run before.

A reference on the command line, or in a program, is *named*: its code runs, and narfx remembers its digest. People
exchange ``arch.json`` files, bundles and runs, so the code that these name runs only under the rules of
docs/what_runs_code.md: it is known by its digest, or it is a network of an installed package, or the user said
``--trust``. Nothing here runs code.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from torch import nn

from narfx.errors import UsageError

__all__ = [
    "UNTRUSTED",
    "admit",
    "check_entry",
    "check_module",
    "digest_of",
    "is_named",
    "naming",
    "out_of",
    "remember",
    "trusted",
]

UNTRUSTED = "untrusted_code"
"""The ``kind`` of every error here."""

_PYTHON = sys.stdlib_module_names | {"test"}  # importing some of Python's own tests starts them
# Arguments that make a package read or fetch something: it could be a pickle, or code.
_RISKY = re.compile(r"(^|_)(weights|pretrained|checkpoint|ckpt|path|file|filename|folder|dir|url|repo|hub|trust)(_|$)")
_WORD = re.compile(r"[\w+-]*")
_trusting: ContextVar[bool] = ContextVar("trusting", default=False)
_in_file: ContextVar[bool] = ContextVar("in_file", default=False)
_named: ContextVar[frozenset[str]] = ContextVar("named", default=frozenset())


@contextmanager
def trusted(on: bool = True) -> Iterator[None]:
    """Run the code that files name without asking, for the duration of the block (``--trust``)."""
    token = _trusting.set(on or _trusting.get())
    try:
        yield
    finally:
        _trusting.reset(token)


@contextmanager
def out_of(folder: Path | None) -> Iterator[None]:
    """What the block resolves stands in a file in ``folder``; ``None`` changes nothing."""
    token = _in_file.set(folder is not None or _in_file.get())
    try:
        yield
    finally:
        _in_file.reset(token)


@contextmanager
def naming(places: Iterable[str]) -> Iterator[None]:
    """The user names these files and modules, even if the block resolves them as out of a file."""
    token = _named.set(_named.get() | {_place(place) for place in places})
    try:
        yield
    finally:
        _named.reset(token)


def is_named(place: str, *, stated: bool) -> bool:
    """Whether the user names this file or module, and not only a file (``stated``) does."""
    return not (stated or _in_file.get()) or _place(place) in _named.get()


def _place(place: str) -> str:
    return str(Path(place).resolve()) if place.endswith(".py") else place


def admit(content: bytes, path: Path, *, named: bool) -> None:
    """Check a file of code before it runs; code that is named or trusted is remembered.

    Raises:
        UsageError: A file names this code, and it is neither trusted nor known.
    """
    digest, shown = digest_of(content), os.path.normpath(path.absolute())
    if named or _trusts():
        remember(digest, shown)
    elif digest not in _known():
        raise _refused(f"{shown} is code that you have not run before, or that has changed since", shown)


def check_module(name: str) -> None:
    """Check a module that a file names, before it is imported.

    Raises:
        UsageError: It is part of Python's standard library, or a program.
    """
    parts = name.split(".")
    if parts[0] in _PYTHON or "__main__" in parts:
        raise _never(name, name)


def check_entry(entry: Any, code: str, name: str, arguments: Mapping[str, Any], *, label: str, named: bool) -> None:
    """Check the object to which a reference leads, before it is used; what is named or trusted is remembered.

    A network (a module, its class, or a function whose annotation says that it returns one) may be named by a file, if
    its arguments are numbers and words. Anything else must have been named by the user before.

    Args:
        entry: The object.
        code: The digest of its file, or its module.
        name: The name of the object there.
        arguments: The arguments of the call.
        label: The reference, for messages.
        named: Whether the user names it.

    Raises:
        UsageError: A file names it, and it may not be used.
    """
    if not named and _of_standard_library(entry):
        raise _never(label, label)
    plain = _plain(arguments)
    known_name = digest_of(f"{code}:{name}".encode())
    known_call = digest_of(f"{code}:{name}?{sorted(arguments.items())!r}".encode())
    if named or _trusts():
        remember(known_name, label)
        remember(known_call, label)
    elif plain and (_is_network(entry) or known_name in _known()):
        return
    elif known_call not in _known():
        why = "has arguments that may name files or downloads" if not plain else "is a function that you never named"
        raise _refused(f"{label} {why}", label)


def digest_of(content: bytes) -> str:
    """The SHA-256 digest of a file's content, as the record holds it."""
    return hashlib.sha256(content).hexdigest()


def remember(digest: str, what: str) -> None:
    """Add a digest to the user's record; without a folder that can be written nothing is remembered."""
    with suppress(OSError, RuntimeError):
        if digest in _known():
            return
        record = _record()
        record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Without waiting: opening a pipe that nobody reads would never end.
        handle = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o600)
        with os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{digest} {' '.join(what.split())[:1000]}\n")


def _known() -> frozenset[str]:
    with suppress(OSError, RuntimeError):
        record = _record()
        if record.is_file():
            lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
            return frozenset(line.partition(" ")[0] for line in lines)
    return frozenset()


def _record() -> Path:
    """One line for each digest, then what it is of; ``RuntimeError`` if the user has no home."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "narfx" / "trusted"


def _trusts() -> bool:
    return _trusting.get() or os.environ.get("NARFX_TRUST") == "1"


def _of_standard_library(entry: Any) -> bool:
    if not isinstance(entry, (type, FunctionType, BuiltinFunctionType, MethodType)):
        return False
    return str(getattr(entry, "__module__", None)).partition(".")[0] in _PYTHON


def _is_network(entry: Any) -> bool:
    """Whether it is a module, its class, or a function that is declared to return one."""
    if isinstance(entry, nn.Module):
        return True
    made = entry
    if isinstance(entry, FunctionType):
        try:
            made = typing.get_type_hints(entry).get("return")
        except Exception:  # an annotation may name anything
            return False
    return isinstance(made, type) and issubclass(made, nn.Module)


def _plain(value: Any) -> bool:
    """Whether arguments hold numbers and words only: no path, no address, no file that exists, nothing to fetch."""
    if isinstance(value, Mapping):
        safe = (not entry or isinstance(entry, float) or not _RISKY.search(str(key)) for key, entry in value.items())
        return all(safe) and all(_plain(key) and _plain(entry) for key, entry in value.items())
    if isinstance(value, (list, tuple, set)):
        return all(map(_plain, value))
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None and not (value and Path(value).exists())
    return value is None or isinstance(value, (bool, int, float))


def _refused(why: str, where: str) -> UsageError:
    return UsageError(
        f"{why}, and a file names it: read it, then add --trust to run it (docs/what_runs_code.md)",
        where=where,
        kind=UNTRUSTED,
    )


def _never(what: str, where: str) -> UsageError:
    return UsageError(
        f"a file names {what}, which is part of Python itself and not a network: narfx does not run it; correct the "
        "file",
        where=where,
        kind=UNTRUSTED,
    )
