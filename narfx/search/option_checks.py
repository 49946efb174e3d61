"""Checks of the options of strategies, which come from a file or the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["number", "one_of", "share", "whole"]


def number(name: str, value: object, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """``value`` as a finite number that is more than ``above`` and at least ``least``; ``ValueError`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, which is not a finite number")
    if value <= above:
        raise ValueError(f"{name} is {value}, and must be above {above}")
    if value < least:
        raise ValueError(f"{name} is {value}, and must be at least {least}")
    return float(value)


def whole(name: str, value: object, *, least: int) -> int:
    """``value`` as an integer of at least ``least``; ``ValueError`` otherwise."""
    checked = number(name, value, least=least)
    if not checked.is_integer():
        raise ValueError(f"{name} is {value}, which is not a whole number")
    return int(checked)


def share(name: str, value: object, *, below: bool = False) -> float:
    """``value`` as a number from 0 to 1, or ``below`` 1; ``ValueError`` otherwise."""
    found = number(name, value, least=0)
    if found > 1 or (below and found == 1):
        raise ValueError(f"{name} is {value}, and must be {'below' if below else 'at most'} 1")
    return found


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    """``value`` if it is one of the known words; ``ValueError`` otherwise."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, and must be {' or '.join(known)}")
    return str(value)
