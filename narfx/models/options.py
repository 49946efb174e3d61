"""What the options of a base network must hold, each fault in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from narfx.errors import UsageError

__all__ = ["check_counts", "check_sizes", "is_count"]


def is_count(value: object) -> bool:
    """Whether ``value`` is a positive integer; ``True`` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_sizes(**sizes: object) -> None:
    """Raise ``UsageError`` naming the first option that is no positive integer."""
    for name, value in sizes.items():
        if not is_count(value):
            raise UsageError(f"{name} is a positive integer, not {value!r}", where=name, kind="model_arguments")


def check_counts(name: str, value: Sequence[int] | str, length: int, example: str) -> tuple[int, ...]:
    """``length`` positive integers, given as a sequence or as text with dashes between (``3-4-14-3``).

    Raises:
        UsageError: They are of another number or kind.
    """
    entries: object = value
    if isinstance(value, str):
        entries = tuple(int(part) if part.isdecimal() else part for part in value.split("-"))
    if not isinstance(entries, (tuple, list)) or len(entries) != length or not all(map(is_count, entries)):
        raise UsageError(
            f"{name} is {length} positive integers such as {example}, not {value!r}",
            where=name,
            kind="model_arguments",
        )
    return tuple(entries)
