"""The registry: operators by name, and the file that registered each one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from narfx.errors import UsageError
from narfx.inputs.user_code import running
from narfx.operators.builtin import BUILT_IN
from narfx.operators.record import Operator

__all__ = [
    "OWN",
    "get_operator",
    "operator_names",
    "operators_of",
    "origin",
    "register_operator",
    "registration",
    "unregister_operator",
]

_REGISTRY: dict[str, Operator] = {operator.name: operator for operator in BUILT_IN}
OWN = frozenset(_REGISTRY)
"""The names of the built-in operators, which cannot be replaced."""
_SOURCES: dict[str, _Source] = {}


@dataclass(frozen=True)
class _Source:
    """The origin of a name that was registered while a user's file ran.

    ``file`` holds the call of ``register_operator``; it may be a module that the user's file imports. ``run`` is the
    module name of that run.
    """

    file: Path
    content: bytes
    run: str

    def follows(self, other: _Source | None) -> bool:
        """Whether this is a later run of the same file, or of a copy of it."""
        return (
            other is not None and self.run != other.run and (self.file == other.file or self.content == other.content)
        )


def register_operator(operator: Operator) -> None:
    """Add an operator to the registry.

    A user's file that runs again replaces its own operators.

    Raises:
        UsageError: The name is taken or is not a Python identifier, or ``operator`` is not an :class:`Operator`.
    """
    if not isinstance(operator, Operator):
        raise UsageError(
            f"register_operator takes a narfx.Operator, not a {type(operator).__name__}", kind="operator_type"
        )
    name = operator.name
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(f"an operator's name must be an identifier, not {name!r}", kind="operator_name")
    before, here = _SOURCES.get(name), None
    if run := running():
        file = Path(sys._getframe(1).f_code.co_filename).resolve()
        here = _Source(file, file.read_bytes() if file.is_file() else b"", run)
    again = here is not None and here.follows(before)
    if (name in _REGISTRY and not again) or name == "base":
        origin = f", registered by {before.file}" if before is not None else ""
        raise UsageError(
            f"there is already an operator {name!r}{origin}: choose another name", where=name, kind="operator_name"
        )
    _REGISTRY[name] = operator
    if here is not None:
        _SOURCES[name] = here


def unregister_operator(name: str) -> None:
    """Remove a registered operator.

    Raises:
        UsageError: The operator is built in, or the name is unknown.
    """
    if get_operator(name).name in OWN:
        raise UsageError(f"{name} is built in and cannot be removed", where=name, kind="operator_name")
    del _REGISTRY[name]
    _SOURCES.pop(name, None)


@contextmanager
def registration() -> Iterator[None]:
    """Undo all registrations of the block if it raises."""
    before = dict(_REGISTRY), dict(_SOURCES)
    try:
        yield
    except BaseException:
        _REGISTRY.clear()
        _REGISTRY.update(before[0])
        _SOURCES.clear()
        _SOURCES.update(before[1])
        raise


def operators_of(run: str, file: Path) -> tuple[str, ...]:
    """The names registered in one run of ``file``, in order; names that only earlier runs registered are removed."""
    for name, source in list(_SOURCES.items()):
        if source.file == file and source.run != run:
            unregister_operator(name)
    return tuple(name for name in _REGISTRY if name in _SOURCES and _SOURCES[name].run == run)


def operator_names() -> tuple[str, ...]:
    """All names that a list of operators may contain."""
    return ("base", *_REGISTRY)


def get_operator(name: str) -> Operator:
    """The operator of that name.

    Raises:
        UsageError: There is none; the message lists the names.
    """
    if name not in _REGISTRY:
        raise UsageError(
            f"unknown operator {name!r}: choose from {', '.join(operator_names())}",
            where="operators",
            kind="unknown_operator",
        )
    return _REGISTRY[name]


def origin(name: str) -> str:
    """``narfx``, the file that registered the operator, or ``a program``."""
    if get_operator(name).name in OWN:
        return "narfx"
    return str(_SOURCES[name].file) if name in _SOURCES else "a program"
