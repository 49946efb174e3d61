"""Checks of the arguments of base networks."""

from __future__ import annotations

from collections.abc import Sequence

from narfx.errors import UsageError

__all__ = ["check_counts", "check_sizes", "is_count"]


def is_count(value: object) -> bool:
    """Whether ``value`` is a positive integer (``True`` is not)."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_sizes(**sizes: object) -> None:
    """Check that all values are positive integers.

    Raises:
        UsageError: One is not; ``where`` is its name.
    """
    for name, value in sizes.items():
        if not is_count(value):
            raise UsageError(f"{name} must be a positive integer, not {value!r}", where=name, kind="model_arguments")


def check_counts(name: str, value: Sequence[int] | str, length: int, example: str) -> tuple[int, ...]:
    """Read ``length`` positive integers from a sequence or from text with dashes (``3-4-14-3``).

    Raises:
        UsageError: ``value`` is something else; the message shows ``example``.
    """
    entries: object = value
    if isinstance(value, str):
        entries = tuple(int(part) if part.isdecimal() else part for part in value.split("-"))
    if not isinstance(entries, (tuple, list)) or len(entries) != length or not all(map(is_count, entries)):
        raise UsageError(
            f"{name} must be {length} positive integers, for example {example}, not {value!r}",
            where=name,
            kind="model_arguments",
        )
    return tuple(entries)
