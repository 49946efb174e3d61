"""Helpers for messages: articles, counts with a plural, the first line of an error, and text that is safe to print."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["article", "count", "escaped", "first_line", "one_line", "printable", "times"]

_LONGEST = 300
_LONGEST_MESSAGE = 2000
# C0 and C1 controls, marks that change the direction of writing, and surrogates: they can rewrite a terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def times(sizes: Iterable[int]) -> str:
    """Sizes as in 3x224x224."""
    return "x".join(map(str, sizes))


def escaped(text: str) -> str:
    """Text with its control characters written as numbers, except tabs and line ends."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def one_line(text: str) -> str:
    """A message as one line without control characters; if it is too long, its middle is left out."""
    longest = _LONGEST_MESSAGE
    if len(text) > 4 * longest:  # so that a message of 100 MB is not searched
        text = f"{text[: 2 * longest]} ... {text[-2 * longest :]}"
    line = escaped(" ".join(text.split()) if re.search(r"[\t\n\r\v\f]", text) else text)
    return line if len(line) <= longest else f"{line[: longest - 300]} ... {line[-290:]}"


def printable(value: Any) -> Any:
    """A result whose texts are single lines without control characters, for a table (JSON escapes by itself).

    A verdict alone may have several lines.
    """
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {
            printable(key): escaped(entry) if key == "verdict" and isinstance(entry, str) else printable(entry)
            for key, entry in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(map(printable, value))
    return value


def article(value: object) -> str:
    """The type of a value with its article, for example ``a str``; ``None`` for ``None``."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def count(number: int, thing: str, plural: str | None = None) -> str:
    """``1 slot`` or ``2 slots``; a ``plural`` is given where an s does not make it."""
    return f"{number:,} {thing if number == 1 else plural or f'{thing}s'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut between words after 300 characters; else the name of its class."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if len(line) <= _LONGEST:
        return line
    words = line[:_LONGEST].rpartition(" ")[0] or line[:_LONGEST]
    return f"{words.rstrip(' ,.;:(')} ..."
