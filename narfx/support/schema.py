"""Validate values from a user or a file into a pydantic record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from narfx.errors import UsageError

__all__ = ["validated"]

M = TypeVar("M", bound=BaseModel)

# What a value must be, by pydantic's kind of error; the braces take the error's own context.
_MUST_BE = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "literal_error": "{expected}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "model_type": "an object of keys and values",
    "model_attributes_type": "an object of keys and values",
    "dict_type": "an object of keys and values",
    "tuple_type": "a list",
    "list_type": "a list",
}
# The same for what is wrong with a key, not with its value.
_KEYS = {"missing": "{key} is missing", "extra_forbidden": "there is no key {key}"}


def validated(
    schema: type[M], values: Any, where: str, *, kind: str = "bad_config", names: Mapping[str, str] | None = None
) -> M:
    """An instance of ``schema``.

    Args:
        schema: The class.
        values: A mapping, for what is right.
        where: What holds the values, for the message.
        kind: The reason code of the error.
        names: What the user calls a key, where that is not its name: ``{"epochs": "--epochs"}``.

    Raises:
        UsageError: A value is missing, unknown or refused; the message names its key and ``where``.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        told = _told(error.errors()[0], names or {})
        raise UsageError(f"{where}: {told}", where=where, kind=kind) from error


def _told(error: Any, names: Mapping[str, str]) -> str:
    """One of pydantic's errors as a sentence."""
    first, *rest = (str(part) for part in error["loc"] or ("",))
    key = ".".join([names.get(first, first), *rest])
    if error["type"] in _KEYS:
        return _KEYS[error["type"]].format(key=key)
    found = f"{error['input']!r:.60}"
    if error["type"] in _MUST_BE:
        must = _MUST_BE[error["type"]].format(**error.get("ctx", {}))
        return f"{key or 'it'} must be {must}, not {found}"
    told = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {told} (found {found})" if key else told
