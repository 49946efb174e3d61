"""Uniform draws of vectors, with or without a window on a cost.

Uniform over all vectors whose cost lies in a window is not the same as a walk or a rejection from the product
distribution cut short: both favour some vectors. Here the vectors are counted by dynamic programming over a binned
cost, one is drawn in proportion to the counts, and a draw whose exact cost falls outside the window (bins are a
little wider) is rejected. What remains is exactly uniform.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from narfx.errors import InfeasibleBudgetError
from narfx.space.records import Vector
from narfx.space.solver import feasible_vector
from narfx.space.space import SearchSpace

__all__ = ["EQUAL", "FeasibleSampler", "WindowSampler", "equal_costs", "sample_equal", "sample_window"]

EQUAL = 0.02

_BINS_PER_SLOT = 64
_MOST_COUNTS = 4_000_000
_TRIES = 200_000
_LISTED = 4096
_LOT = 4096
_JOINT_TRIES = 20_000


class WindowSampler:
    """Draws vectors uniformly from those with ``low <= cost[metric] <= high``; the budget is left aside."""

    def __init__(self, space: SearchSpace, metric: str, low: float, high: float) -> None:
        self.space, self.metric, self.low, self.high = space, metric, low, high
        least, most = space.least(metric), space.most(metric)
        bottom, top = max(low, least), min(high, most)
        slots = max(len(space), 1)
        # One rounding down a slot: a window of 64 bins a slot keeps the share of rejected draws near 1/64.
        width = max((top - bottom) / (_BINS_PER_SLOT * slots), (most - least) * slots / _MOST_COUNTS) or 1.0
        self._steps = [
            {k: math.floor((slot.costs[metric][k] - min(slot.costs[metric][j] for j in slot.legal)) / width)
             for k in slot.legal}
            for slot in space.slots
        ]  # fmt: skip
        # One bin more at either end: a quotient that lies next to an integer may be rounded to it.
        self._first = max(math.floor((bottom - least) / width) - len(space) - 1, 0)
        self._last = math.floor((top - least) / width) + 1 if bottom <= top else -1
        self._counts = self._count()

    def _count(self) -> list[np.ndarray]:
        """counts[i][b]: ways to fill slots i.. so that the whole lands in the window when b bins are already spent."""
        size = self._last + 1
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

    def draw(
        self, rng: np.random.Generator, accept: Callable[[Vector], bool] | None = None, tries: int = _TRIES
    ) -> Vector | None:
        """One vector that ``accept`` takes, or ``None`` when ``tries`` draws around the window met none."""
        if self.count == 0:
            return None
        for size in (1, *(_LOT for _ in range(1, tries, _LOT))):
            for entries in self._lot(size, rng):
                vector = tuple(int(entry) for entry in entries)
                if self._inside(vector) and (accept is None or accept(vector)):
                    return vector
        return None

    def _lot(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Of ``size`` draws over the bins, those whose cost lies in the window but for rounding, one a row."""
        spent, chosen = np.zeros(size, dtype=int), []
        cost = np.full(size, float(self.space.fixed.get(self.metric, 0)))
        for slot, steps, ahead in zip(self.space.slots, self._steps, self._counts[1:], strict=True):
            entries, step = np.array(list(steps)), np.array(list(steps.values()))
            reach = spent[:, None] + step
            ways = np.where(reach < len(ahead), ahead[np.minimum(reach, len(ahead) - 1)], 0.0).cumsum(axis=1)
            picked = (rng.random(size)[:, None] * ways[:, -1:] >= ways).sum(axis=1).clip(max=len(entries) - 1)
            spent += step[picked]
            cost += np.array(slot.costs[self.metric], dtype=float)[entries[picked]]
            chosen.append(entries[picked])
        slack = 1e-9 * max(abs(self.space.most(self.metric)), 1.0)
        inside = (cost >= self.low - slack) & (cost <= self.high + slack)
        return np.stack(chosen, axis=1)[inside] if chosen else np.zeros((size, 0), dtype=int)

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
    """``n`` distinct vectors, uniform over those with a cost in the window; all of them where there are fewer.

    Only where a window is so narrow that hundreds of thousands of draws around it meet nothing, some may be missed.
    """
    return _sample(WindowSampler(space, metric, low, high), n, rng, lambda vector: vector not in exclude)


def sample_equal(
    space: SearchSpace, vector: Vector, n: int, rng: np.random.Generator, metrics: Iterable[str] = ()
) -> list[Vector]:
    """``n`` distinct other vectors of equal cost, uniform over them; all of them where there are fewer.

    Equal are the MACs (of a space that knows them), every cost that the space's budget bounds, and ``metrics``: none
    is above the vector's, and none more than 2 % below. So what is drawn beside a vector within the budget is within
    it too. Some may be missed as by :func:`sample_window`.
    """
    cost = space.cost(vector)
    windows = {name: ((1 - EQUAL) * cost[name], cost[name]) for name in equal_costs(space, metrics)}
    if not windows:
        return []
    samplers = [WindowSampler(space, name, *window) for name, window in windows.items()]

    def equal(other: Vector) -> bool:
        costs = space.cost(other)
        return other != vector and all(low <= costs[name] <= high for name, (low, high) in windows.items())

    return _sample(min(samplers, key=lambda sampler: sampler.count), n, rng, equal)


def equal_costs(space: SearchSpace, metrics: Iterable[str] = ()) -> tuple[str, ...]:
    """The costs in which :func:`sample_equal` makes vectors equal."""
    wanted = {"macs", *space.budget.bounds, *metrics}
    return tuple(sorted(wanted & set(space.metrics), key=lambda name: (name != "macs", name)))


def _sample(sampler: WindowSampler, n: int, rng: np.random.Generator, accept: Callable[[Vector], bool]) -> list[Vector]:
    if sampler.count <= _LISTED:
        everything = [vector for vector in sampler.all() if accept(vector)]
        if len(everything) <= n:
            return everything
        return [everything[i] for i in sorted(rng.choice(len(everything), n, replace=False))]
    found: dict[Vector, None] = {}
    for _ in range(100 * n):
        vector = sampler.draw(rng, accept)
        if vector is None:
            break
        found[vector] = None
        if len(found) == n:
            break
    return list(found)


class FeasibleSampler:
    """Draws uniformly from the legal vectors that meet the space's budget.

    Where a budget has several bounds that leave almost nothing in common, what is drawn meets them all but favours
    some vectors: those that are best for random preferences.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._window: WindowSampler | None = None

    def draw(self, rng: np.random.Generator) -> Vector:
        """One vector.

        Raises:
            InfeasibleBudgetError: No vector meets the budget.
        """
        if self._window is None:
            for _ in range(64):
                vector = tuple(int(rng.choice(slot.legal)) for slot in self.space.slots)
                if self.space.feasible(vector):
                    return vector
            self._window = self._tightest()
        drawn = self._window.draw(rng, self.space.feasible, _JOINT_TRIES)
        if drawn is not None:
            return drawn
        preference = {(i, k): rng.random() for i, slot in enumerate(self.space.slots) for k in slot.legal}
        solved = feasible_vector(self.space, preference)
        if solved is None:
            raise InfeasibleBudgetError(f"no architecture meets {self.space.budget}: raise the budget")
        return solved

    def _tightest(self) -> WindowSampler:
        """The window of the bound that rules out most; the other bounds are met by rejection."""
        space = self.space

        def room(metric: str) -> float:
            span = space.most(metric) - space.least(metric)
            return (space.budget.bounds[metric] - space.least(metric)) / max(span, 1e-12)

        metric = min(space.budget.bounds, key=room)
        return WindowSampler(space, metric, space.least(metric), space.budget.bounds[metric])
