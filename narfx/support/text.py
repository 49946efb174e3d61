"""Helpers for messages: an article with a type's name, counts with a plural, and the first line of an error."""

from __future__ import annotations

__all__ = ["article", "count", "first_line"]

_LONGEST = 300


def article(value: object) -> str:
    """The type of a value with its article, for example ``a str``; ``None`` for ``None``."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def count(number: int, thing: str) -> str:
    """``1 slot`` or ``2 slots``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut between words after 300 characters; else the name of its class."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if len(line) <= _LONGEST:
        return line
    words = line[:_LONGEST].rpartition(" ")[0] or line[:_LONGEST]
    return f"{words.rstrip(' ,.;:(')} ..."
