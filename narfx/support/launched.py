"""What torchrun tells a process of its rank, read without any other module: needed before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["is_ranked", "is_silent", "rank_numbers"]


def rank_numbers(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Rank, number of ranks, and rank on this machine; (0, 1, 0) where no launcher names them.

    Raises:
        ValueError: One of them is no number.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return 0, 1, 0
    rank = environment["RANK"]
    return int(rank), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", rank))


def is_ranked() -> bool:
    """Whether a launcher has started several processes."""
    return _named()[1] > 1


def is_silent() -> bool:
    """Whether this process prints nothing, because it is a rank above 0."""
    rank, size, _ = _named()
    return size > 1 and rank > 0


def _named() -> tuple[int, int, int]:
    try:
        return rank_numbers(os.environ)
    except ValueError:
        return 0, 1, 0
