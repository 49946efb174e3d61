"""Small words of messages: what a value is, how many of a thing there are, what an error says."""

from __future__ import annotations

__all__ = ["article", "count", "first_line"]

_LINE = 200


def article(value: object) -> str:
    """What a value is, as ``a str``; ``None`` is itself."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def count(number: int, thing: str) -> str:
    """``1 slot`` or ``2 slots``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """What an error says, as far as one line; a long one is cut between words."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if len(line) <= _LINE:
        return line
    words = line[:_LINE].rpartition(" ")[0] or line[:_LINE]
    return f"{words.rstrip(' ,.;:(')} ..."
