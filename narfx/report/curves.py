"""Long series made short enough to draw: means of neighbouring values, with what they vary between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["MOST", "Curve", "shortened", "smoothed"]

MOST = 240
"""A figure is about 480 pixels wide: more points than this do not show."""


@dataclass(frozen=True)
class Curve:
    """A series over steps: a point stands for ``every`` values, with their mean, least and greatest."""

    steps: tuple[float, ...]
    means: tuple[float, ...]
    least: tuple[float, ...]
    greatest: tuple[float, ...]
    every: int = 1


def shortened(steps: Sequence[float], values: Sequence[float], most: int = MOST) -> Curve:
    """At most ``most`` points, each the mean of equally many neighbours (the last one of what is left)."""
    every = max(-(-len(values) // most), 1)
    if every == 1:
        numbers = tuple(map(float, values))
        return Curve(tuple(map(float, steps)), numbers, numbers, numbers)
    groups = [slice(start, start + every) for start in range(0, len(values), every)]
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    return Curve(
        tuple(float(x[group].mean()) for group in groups),
        tuple(float(y[group].mean()) for group in groups),
        tuple(float(y[group].min()) for group in groups),
        tuple(float(y[group].max()) for group in groups),
        every,
    )


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean over ``window`` values around each one, over fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    index = np.arange(len(values))
    low, high = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(values))
    return [float(mean) for mean in (total[high] - total[low]) / (high - low)]
