"""Configurations: values from a user or a file, validated into a record."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from narfx.errors import UsageError

__all__ = ["validated"]

M = TypeVar("M", bound=BaseModel)

# Where pydantic speaks of Python's classes, which no file knows.
_WANTED = {"model_type": "an object of keys and values belongs here", "tuple_type": "a list belongs here"}


def validated(schema: type[M], values: Any, where: str, *, kind: str = "bad_config") -> M:
    """An instance of ``schema``.

    Raises:
        UsageError: A value is missing, unknown or refused; the message names its key in ``where``.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = f" (found {first['input']!r:.60})" if key and first["type"] != "missing" else ""
        told = first["msg"].removeprefix("Value error, ")
        told = _WANTED.get(first["type"], told)
        raise UsageError(f"{where}: {key + ': ' if key else ''}{told}{found}", where=where, kind=kind) from error
