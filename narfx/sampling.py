"""Uniform draws of vectors, with or without a window on a cost.

Uniform over all vectors whose cost lies in a window is not the same as a walk or a rejection from the product
distribution cut short: both favour some vectors. Here the vectors are counted by dynamic programming over a binned
cost, one is drawn in proportion to the counts, and a draw whose exact cost falls outside the window (bins are a
little wider) is rejected. What remains is exactly uniform.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from narfx.space import SearchSpace, Vector

__all__ = ["FeasibleSampler", "WindowSampler", "sample_window"]

_BINS_PER_SLOT = 64
_TRIES = 200_000


class WindowSampler:
    """Draws vectors uniformly from those with ``low <= cost[metric] <= high``; the budget is left aside."""

    def __init__(self, space: SearchSpace, metric: str, low: float, high: float) -> None:
        self.space, self.metric, self.low, self.high = space, metric, low, high
        least = space.least(metric)
        window = max(min(high, space.most(metric)) - max(low, least), 0.0)
        # One rounding down a slot: a window of 64 bins a slot keeps the share of rejected draws near 1/64.
        width = max(window, 1e-9 * max(abs(high), 1.0)) / (_BINS_PER_SLOT * max(len(space), 1))
        width = max(width, (space.most(metric) - least) / 2_000_000)
        self._width = width = width or 1.0
        self._steps = [
            {k: math.floor((slot.costs[metric][k] - min(slot.costs[metric][j] for j in slot.legal)) / width)
             for k in slot.legal}
            for slot in space.slots
        ]  # fmt: skip
        self._first = max(math.floor((low - least) / width) - len(space), 0)
        self._last = math.floor((high - least) / width)
        self._counts = self._count()

    def _count(self) -> list[np.ndarray]:
        """counts[i][b]: ways to fill slots i.. so that the whole lands in the window when b bins are already spent."""
        size = max(self._last + 1, 0)
        last = np.zeros(size)
        last[self._first :] = 1.0
        counts = [last]
        for steps in reversed(self._steps):
            ahead, here = counts[-1], np.zeros(size)
            for step in steps.values():
                if step < size:
                    here[: size - step] += ahead[step:]
            counts.append(here)
        return counts[::-1]

    @property
    def count(self) -> float:
        """How many vectors the (slightly wider, binned) window holds: an upper bound of the exact number."""
        return float(self._counts[0][0]) if len(self._counts[0]) else 0.0

    def _inside(self, vector: Vector) -> bool:
        return self.low <= self.space.cost(vector)[self.metric] <= self.high

    def draw(self, rng: np.random.Generator) -> Vector | None:
        """One vector, or ``None`` when none was met in many tries (the window is empty or nearly so)."""
        if self.count == 0:
            return None
        for _ in range(_TRIES):
            spent, entries = 0, []
            for index, steps in enumerate(self._steps):
                ahead = self._counts[index + 1]
                ways = np.array([ahead[spent + s] if spent + s < len(ahead) else 0.0 for s in steps.values()])
                choice = int(np.searchsorted(np.cumsum(ways), rng.random() * ways.sum(), side="right"))
                entry = list(steps)[min(choice, len(ways) - 1)]
                entries.append(entry)
                spent += steps[entry]
            vector = tuple(entries)
            if self._inside(vector):
                return vector
        return None

    def all(self) -> Iterator[Vector]:
        """Every vector of the window, in lexicographic order; meant for small windows."""

        def extend(prefix: Vector, spent: int) -> Iterator[Vector]:
            if len(prefix) == len(self._steps):
                if self._inside(prefix):
                    yield prefix
                return
            ahead = self._counts[len(prefix) + 1]
            for entry, step in self._steps[len(prefix)].items():
                if spent + step < len(ahead) and ahead[spent + step] > 0:
                    yield from extend((*prefix, entry), spent + step)

        if self.count:
            yield from extend((), 0)


def sample_window(
    space: SearchSpace, n: int, low: float, high: float, rng: np.random.Generator, metric: str = "macs",
    exclude: frozenset[Vector] = frozenset(),
) -> list[Vector]:  # fmt: skip
    """``n`` distinct vectors, uniform over those with a cost in the window; all of them where there are fewer."""
    sampler = WindowSampler(space, metric, low, high)
    if sampler.count <= 4096:
        everything = [vector for vector in sampler.all() if vector not in exclude]
        if len(everything) <= n:
            return everything
        return [everything[i] for i in sorted(rng.choice(len(everything), n, replace=False))]
    found: dict[Vector, None] = {}
    for _ in range(100 * n):
        vector = sampler.draw(rng)
        if vector is None:
            break
        if vector not in exclude:
            found[vector] = None
        if len(found) == n:
            break
    return list(found)


class FeasibleSampler:
    """Draws uniformly from the legal vectors that meet the space's budget."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._window: WindowSampler | None = None

    def draw(self, rng: np.random.Generator) -> Vector:
        """One vector."""
        if self._window is None:
            for _ in range(64):
                vector = tuple(int(rng.choice(slot.legal)) for slot in self.space.slots)
                if self.space.feasible(vector):
                    return vector
            self._window = self._tightest()
        for _ in range(_TRIES):
            drawn = self._window.draw(rng)
            if drawn is not None and self.space.feasible(drawn):
                return drawn
        raise RuntimeError("no feasible vector was met: was the budget checked with SearchSpace.within?")

    def _tightest(self) -> WindowSampler:
        """The window of the bound that rules out most; the other bounds are met by rejection."""
        space = self.space

        def room(metric: str) -> float:
            span = space.most(metric) - space.least(metric)
            return (space.budget.bounds[metric] - space.least(metric)) / max(span, 1e-12)

        metric = min(space.budget.bounds, key=room)
        return WindowSampler(space, metric, space.least(metric), space.budget.bounds[metric])
