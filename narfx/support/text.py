"""Small words of messages: what a value is, and how many of a thing there are."""

from __future__ import annotations

__all__ = ["article", "count"]


def article(value: object) -> str:
    """What a value is, as ``a str``; ``None`` is itself."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def count(number: int, thing: str) -> str:
    """``1 slot`` or ``2 slots``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
