"""Which of many points no other one beats, and how far apart these lie: the sorting of NSGA-II.

Non-dominated sorting and crowding distance as in Deb et al., A fast and elitist multiobjective genetic algorithm:
NSGA-II, IEEE Transactions on Evolutionary Computation 6(2), 2002, sections III-A and III-B.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["crowding", "nondominated", "ranks"]

Floats = NDArray[np.float64]

_LOT = 1024


def nondominated(points: Floats) -> NDArray[np.bool_]:
    """``(n, goals)`` to ``(n,)``: whether no other point is at least as high in all goals and higher in one."""
    n, goals = points.shape
    if goals == 2:
        return _staircase(points)
    kept = np.ones(n, dtype=bool)
    for start in range(0, n, _LOT):
        mine = points[start : start + _LOT, None]
        beaten = np.all(points[None] >= mine, axis=-1) & np.any(points[None] > mine, axis=-1)
        kept[start : start + _LOT] = ~np.any(beaten, axis=1)
    return kept


def _staircase(points: Floats) -> NDArray[np.bool_]:
    """Two goals: sorted by the first, a point is beaten by a higher second goal before it; equal points stay equal."""
    order = np.lexsort((-points[:, 1], -points[:, 0]))
    first, second = points[order].T
    before = np.concatenate([[-np.inf], np.maximum.accumulate(second)[:-1]]) if len(second) else second
    new = np.concatenate([[True], (np.diff(first) != 0) | (np.diff(second) != 0)])[: len(second)]
    # An equal point takes the answer of the first of its kind.
    kept = (second > before)[np.maximum.accumulate(np.where(new, np.arange(len(second)), 0))]
    answer = np.empty(len(points), dtype=bool)
    answer[order] = kept
    return answer


def ranks(points: Floats) -> NDArray[np.int64]:
    """``(n, goals)`` to ``(n,)``: 0 for the front, 1 for the front of the rest, and so on; higher goals are better."""
    found = np.zeros(len(points), dtype=np.int64)
    left = np.arange(len(points))
    for rank in range(len(points)):
        if not len(left):
            break
        kept = nondominated(points[left])
        found[left[kept]] = rank
        left = left[~kept]
    return found


def crowding(points: Floats) -> Floats:
    """``(n, goals)`` of one front to ``(n,)``: the gap between a point's neighbours, summed over the goals.

    Each gap is a share of the goal's range. The ends of a goal are infinitely far from all, so that they are kept.
    """
    n, goals = points.shape
    gaps = np.zeros(n)
    for goal in range(goals):
        order = np.argsort(points[:, goal], kind="stable")
        values = points[order, goal]
        span = values[-1] - values[0] if n else 0.0
        if span > 0:
            gaps[order[1:-1]] += (values[2:] - values[:-2]) / span
            gaps[order[[0, -1]]] = np.inf
    return gaps
