"""Factories that a user names for a part of a training: an optimizer, a schedule, an augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narfx.errors import UsageError
from narfx.inputs.reference import ModelRef
from narfx.inputs.trust import check_entry, digest_of, is_named
from narfx.inputs.user_code import attribute, execute_file, import_module, importable, user_code
from narfx.support.text import article

__all__ = ["OwnFactory", "is_own", "load_factory", "short_name"]


@dataclass(frozen=True)
class OwnFactory:
    """A callable of the user's, the arguments that its reference gives, and its name for messages."""

    factory: Callable[..., Any]
    arguments: Mapping[str, Any]
    label: str


def is_own(text: str | None) -> bool:
    """Whether an option names code, ``package.module:factory`` or ``file.py:factory``, and not one of narfx's words."""
    return text is not None and ":" in text


def load_factory(text: str, option: str, *, relative_to: Path | None = None) -> OwnFactory:
    """Import what ``package.module:factory`` or ``file.py:factory`` names; arguments follow after ``?``.

    Args:
        text: The reference.
        option: The option that takes it, for messages.
        relative_to: The folder of the file in which the reference stands, if it stands in one; it is searched first.

    Raises:
        UsageError: It cannot be read, is missing, cannot be imported, may not run, or cannot be called.
    """
    ref = _parsed(text, option)
    path = _file(ref.name, relative_to) if ref.kind == "file" else None
    named = is_named(ref.name if path is None else str(path), stated=relative_to is not None)
    with importable(Path.cwd() if path is None else path.parent, siblings=path is not None, named=named):
        with user_code(f"cannot import {ref.name}", where=text, kind="import_failed"):
            module = import_module(ref.name, named=named) if path is None else execute_file(path, named=named)
        factory = attribute(module, str(ref.factory), ref.name)
    code = ref.name if path is None else digest_of(path.read_bytes())
    check_entry(factory, code, str(ref.factory), ref.arguments, label=text, named=named)
    if not callable(factory):
        raise UsageError(
            f"{option} {text} is {article(factory)}: name a function or a class", where=option,
            kind="factory_not_callable",
        )  # fmt: skip
    return OwnFactory(factory, ref.arguments, f"{ref.name}:{ref.factory}")


def short_name(text: str) -> str:
    """A reference without folders, for files that leave this machine."""
    place, colon, name = text.partition(":")
    return f"{Path(place).name}{colon}{name}"


def _parsed(text: str, option: str) -> ModelRef:
    try:
        ref = ModelRef.parse(text)
    except UsageError as error:
        raise _unreadable(text, option) from error
    if ref.kind not in ("file", "module") or ref.factory is None or ref.part is not None:
        raise _unreadable(text, option)
    return ref


def _unreadable(text: str, option: str) -> UsageError:
    return UsageError(
        f"cannot read {option} {text}: write package.module:factory or file.py:factory, with ?name=value for arguments",
        where=option,
        kind="code_reference",
    )


def _file(name: str, relative_to: Path | None) -> Path:
    for folder in [Path.cwd()] if relative_to is None else [relative_to.absolute(), Path.cwd()]:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"there is no file {name}: check the path", where=name, kind="missing_file")
