"""Checks of the options of strategies, which come from a file or the command line."""

from __future__ import annotations

import math

__all__ = ["number", "whole"]


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
