"""Validate values from a user or a file into a pydantic record."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from narfx.errors import UsageError

__all__ = ["validated"]

M = TypeVar("M", bound=BaseModel)

# Replacements for pydantic messages that name Python classes.
_WANTED = {"model_type": "it must be an object of keys and values", "tuple_type": "it must be a list"}


def validated(schema: type[M], values: Any, where: str, *, kind: str = "bad_config") -> M:
    """An instance of ``schema``.

    Raises:
        UsageError: A value is missing, unknown or refused; the message names its key and ``where``.
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
