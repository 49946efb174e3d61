"""What a policy needs of a search space as arrays: which operators may follow, and where to start from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narfx.space.space import SearchSpace

__all__ = ["Masks", "Walk", "budget_prior"]


class Masks:
    """The legality and the budget of a space, prepared for many prefixes at a time.

    What a :class:`Walk` allows is what ``space.allowed`` allows, to the last bit.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.slots = len(space)
        # As many columns as any slot has choices: a skip has two, whatever the number of operators.
        self.operators = max(len(space.operators), *(1 if slot.skip is None else 2 for slot in space.slots))
        self.legal = np.zeros((self.slots, self.operators), dtype=bool)
        for index, slot in enumerate(space.slots):
            self.legal[index, list(slot.legal)] = True
        self.bounds = [
            _Bound(space, metric, bound, self.costs(space, metric), self.legal)
            for metric, bound in space.budget.bounds.items()
        ]

    def costs(self, space: SearchSpace, metric: str) -> NDArray[np.float64]:
        """The costs of what is legal, ``(slots, operators)``, zero elsewhere."""
        table = np.zeros(self.legal.shape)
        for index, slot in enumerate(space.slots):
            table[index, list(slot.legal)] = [slot.costs[metric][k] for k in slot.legal]
        return table

    def walk(self, n: int) -> Walk:
        """``n`` empty prefixes."""
        return Walk(self, n)

    def along(self, vectors: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The operators allowed at each step along given vectors: ``(n, slots)`` to ``(n, slots, operators)``.

        A vector's own entries are always allowed to it.
        """
        walk = self.walk(len(vectors))
        allowed = np.zeros((*vectors.shape, self.operators), dtype=bool)
        rows = np.arange(len(vectors))
        for slot in range(self.slots):
            allowed[:, slot] = walk.allowed()
            allowed[rows, slot, vectors[:, slot]] = True
            walk.take(vectors[:, slot])
        return allowed


class Walk:
    """Prefixes of vectors that grow together, slot by slot."""

    def __init__(self, masks: Masks, n: int) -> None:
        self._masks, self._prefixes = masks, np.zeros((n, 0), dtype=np.int64)
        self._spent = [np.zeros(n) for _ in masks.bounds]

    def allowed(self) -> NDArray[np.bool_]:
        """``(n, operators)``: what ``space.allowed`` says for each prefix; a row without any is a dead end."""
        n, slot = self._prefixes.shape
        allowed = np.repeat(self._masks.legal[slot][None], n, axis=0)
        for bound, spent in zip(self._masks.bounds, self._spent, strict=True):
            allowed &= bound.leaves_room(self._prefixes, spent)
        return allowed

    def take(self, choices: NDArray[np.int64]) -> None:
        """Let each prefix grow by its choice."""
        slot = self._prefixes.shape[1]
        self._spent = [
            spent + bound.table[slot, choices] for bound, spent in zip(self._masks.bounds, self._spent, strict=True)
        ]
        self._prefixes = np.concatenate([self._prefixes, choices[:, None]], axis=1)


class _Bound:
    """One bound of a budget."""

    def __init__(
        self, space: SearchSpace, metric: str, bound: float, table: NDArray[np.float64], legal: NDArray[np.bool_]
    ) -> None:
        self.bound, self.fixed = bound, space.fixed.get(metric, 0)
        self.costs = [slot.costs[metric] for slot in space.slots]
        self.least = [min(slot.costs[metric][k] for k in slot.legal) for slot in space.slots]
        self.table, self.legal = table, legal
        self.rest = [sum(self.least[index + 1 :]) for index in range(len(space))]
        self.unsure = 1e-9 * (abs(bound) + abs(self.fixed) + float(np.abs(self.table).max(axis=1, initial=0).sum()))

    def leaves_room(self, prefixes: NDArray[np.int64], spent: NDArray[np.float64]) -> NDArray[np.bool_]:
        """``(n, operators)``: whether the cheapest rest still fits after each operator."""
        slot = prefixes.shape[1]
        excess = (self.fixed + spent)[:, None] + self.table[slot] + self.rest[slot] - self.bound
        fits: NDArray[np.bool_] = excess <= 0
        # Where rounding may decide, the sum is made in the very order of `space.allowed`.
        for row, operator in np.argwhere((np.abs(excess) <= self.unsure) & self.legal[slot]).tolist():
            before = [costs[entry] for costs, entry in zip(self.costs, prefixes[row].tolist(), strict=False)]
            total = self.fixed + sum([*before, self.costs[slot][operator], *self.least[slot + 1 :]])
            fits[row, operator] = total <= self.bound
        return fits


def budget_prior(space: SearchSpace) -> NDArray[np.float64]:
    """Logits ``(slots, operators)`` of the product nearest to uniform whose mean cost meets the budget.

    A policy that starts uniform under a tight budget spends it on the first slots, and the last ones see only their
    cheapest operator. The nearest distribution (least Kullback-Leibler divergence from uniform) is ``-lambda . cost``
    with one multiplier a bound, the minimum of a smooth convex dual. Without a budget, or with a loose one, all zero.
    """
    bounds = space.budget.bounds
    masks = Masks(space)
    legal = masks.legal
    if not bounds:
        return np.zeros(legal.shape)
    from scipy.optimize import minimize

    costs = np.stack([masks.costs(space, metric) for metric in bounds])
    scale = np.maximum(np.abs(costs).max(axis=(1, 2)), 1e-12)
    costs /= scale[:, None, None]
    room = np.array([bound - space.fixed.get(metric, 0) for metric, bound in bounds.items()]) / scale

    def dual(multipliers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = np.where(legal, -np.tensordot(multipliers, costs, axes=1), -np.inf)
        top = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - top)
        total = weights.sum(axis=1, keepdims=True)
        mean_cost = (costs * (weights / total)).sum(axis=(1, 2))
        return float((np.log(total) + top).sum() + multipliers @ room), room - mean_cost

    # Beyond 20 a choice is settled anyway, and a budget that only the cheapest vector meets has no finite minimum.
    found = minimize(dual, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=[(0.0, 20.0)] * len(bounds))
    return np.asarray(-np.tensordot(found.x, costs, axes=1), dtype=float)
