"""Helpers for messages: an article with a type's name, and counts with a plural."""

from __future__ import annotations

__all__ = ["article", "count"]


def article(value: object) -> str:
    """The type of a value with its article, for example ``a str``; ``None`` for ``None``."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def count(number: int, thing: str) -> str:
    """``1 slot`` or ``2 slots``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
