"""What a policy needs of a search space as arrays: which operators may follow, and where to start from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narfx.space import SearchSpace

__all__ = ["Masks", "Walk", "budget_prior"]


class Masks:
    """The legality and the budget of a space, prepared for many prefixes at a time.

    What a :class:`Walk` allows is what ``space.allowed`` allows, to the last bit: sums are made by the same Python
    ``sum`` over the same numbers, only the part behind the prefix is summed once and for all.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.slots, self.operators = len(space), len(space.operators)
        self.legal = np.zeros((self.slots, self.operators), dtype=bool)
        for index, slot in enumerate(space.slots):
            self.legal[index, list(slot.legal)] = True
        self.bounds = dict(space.budget.bounds)
        self.fixed = {metric: space.fixed.get(metric, 0) for metric in self.bounds}
        self.costs = {metric: [slot.costs[metric] for slot in space.slots] for metric in self.bounds}
        self.rest = {metric: _least_behind(space, metric) for metric in self.bounds}

    def walk(self, n: int) -> Walk:
        """``n`` empty prefixes."""
        return Walk(self, n)

    def along(self, vectors: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The operators allowed at each step along given vectors: ``(n, slots)`` to ``(n, slots, operators)``.

        A vector's own entries are always allowed to it: it exists, whatever the last digit of a sum says.
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
        self._masks, self._n, self._slot = masks, n, 0
        self._spent: dict[str, list[list[float]]] = {metric: [[] for _ in range(n)] for metric in masks.bounds}

    def allowed(self) -> NDArray[np.bool_]:
        """``(n, operators)``: what ``space.allowed`` says for each prefix; a row without any is a dead end."""
        masks, slot = self._masks, self._slot
        allowed = np.repeat(masks.legal[slot][None], self._n, axis=0)
        for metric, bound in masks.bounds.items():
            spent = np.array([masks.fixed[metric] + sum(costs) for costs in self._spent[metric]])
            room = bound - spent - masks.rest[metric][slot]
            allowed &= np.asarray(masks.costs[metric][slot])[None] <= room[:, None]
        return allowed

    def take(self, choices: NDArray[np.int64]) -> None:
        """Let each prefix grow by its choice."""
        for metric, spent in self._spent.items():
            here = self._masks.costs[metric][self._slot]
            for costs, choice in zip(spent, choices.tolist(), strict=True):
                costs.append(here[choice])
        self._slot += 1


def _least_behind(space: SearchSpace, metric: str) -> list[float]:
    """For each slot, the lowest cost of all slots behind it."""
    least = [min(slot.costs[metric][k] for k in slot.legal) for slot in space.slots]
    return [sum(least[index + 1 :]) for index in range(len(least))]


def budget_prior(space: SearchSpace) -> NDArray[np.float64]:
    """Logits ``(slots, operators)`` of the product nearest to uniform whose mean cost meets the budget.

    A policy that starts uniform under a tight budget spends it on the first slots, and the last ones see only their
    cheapest operator. The nearest distribution (least Kullback-Leibler divergence from uniform) is ``-lambda . cost``
    with one multiplier a bound, the minimum of a smooth convex dual. Without a budget, or with a loose one, all zero.
    """
    bounds = space.budget.bounds
    if not bounds:
        return np.zeros((len(space), len(space.operators)))
    from scipy.optimize import minimize

    legal = Masks(space).legal
    costs = np.array([[slot.costs[metric] for slot in space.slots] for metric in bounds], dtype=float)
    costs = np.where(legal, costs, 0.0)
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
