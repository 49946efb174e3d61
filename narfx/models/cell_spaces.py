"""Spaces of cells in which each edge has operators of its own."""

from __future__ import annotations

__all__ = ["S1"]

_SHORT = {
    "s": "skip_connect", "m": "max_pool_3x3", "a": "avg_pool_3x3", "3": "sep_conv_3x3", "d": "dil_conv_3x3",
    "D": "dil_conv_5x5",
}  # fmt: skip


def _edges(text: str) -> list[tuple[str, ...]]:
    return [tuple(_SHORT[letter] for letter in pair) for pair in text.split()]


S1: dict[str, list[tuple[str, ...]]] = {
    "normal": _edges("sd sD sD s3 sd ms s3 s3 sd s3 ms sd dD dD"),
    "reduce": _edges("ma md ma ma sD ma m3 sd sD ma ma sD sD sD"),
}
"""S1 of Zela et al. (arXiv 1909.09656): the two operators of each edge, in the order of the nodes and their sources.

The list is that of the paper's authors (github.com/automl/RobustDARTS, ``src/spaces.py``).
"""
