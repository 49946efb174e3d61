"""A vector that breaks the budget, moved to one that meets it with as little loss of score as a greedy walk needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narfx.errors import InfeasibleBudgetError
from narfx.space.records import Vector
from narfx.space.solver import feasible_vector
from narfx.space.space import SearchSpace

__all__ = ["repaired"]

Floats = NDArray[np.float64]


def repaired(space: SearchSpace, vector: Vector, scores: Floats) -> Vector:
    """A vector that meets the space's budget, near the legal ``vector``.

    One slot after another takes the choice that loses the least score for what it saves of the excess. Then slots go
    back to their old choices, those that lost most first, as far as these fit. Where bounds contradict each other, so
    that no single change helps, the integer program finds the vector of highest summed score.

    Args:
        space: The slots and the budget.
        vector: Legal; returned as it is if it meets the budget.
        scores: ``(slots, choices)``: how much each choice is wanted.

    Raises:
        InfeasibleBudgetError: No vector meets the budget.
    """
    if space.feasible(vector):
        return vector
    found = _cheapened(space, vector, scores)
    if found is None:
        wanted = {(i, k): -float(scores[i, k]) for i, slot in enumerate(space.slots) for k in slot.legal}
        found = feasible_vector(space, wanted)
        if found is None:
            raise InfeasibleBudgetError(f"no architecture meets {space.budget}: raise the budget")
        return found
    changes = [
        (float(scores[index, new] - scores[index, old]), index)
        for index, (old, new) in enumerate(zip(vector, found, strict=True))
        if new != old
    ]
    for _, index in sorted(changes):
        back = (*found[:index], vector[index], *found[index + 1 :])
        if space.feasible(back):
            found = back
    return found


def _cheapened(space: SearchSpace, vector: Vector, scores: Floats) -> Vector | None:
    """Change slots until the budget is met; ``None`` as soon as no change helps."""
    shape, slots = scores.shape, np.arange(len(vector))
    tables = []
    for metric, bound in space.budget.bounds.items():
        # An illegal choice saves nothing. What is above a bound counts as a share of it, so that several add up.
        table = np.full(shape, np.inf)
        for index, slot in enumerate(space.slots):
            table[index, list(slot.legal)] = [slot.costs[metric][k] for k in slot.legal]
        scale = max(abs(bound), 1e-12)
        tables.append((table / scale, (space.fixed.get(metric, 0) - bound) / scale))
    here = np.array(vector)
    while not space.feasible(here.tolist()):
        saved = np.zeros(shape)
        for table, rest in tables:
            now = table[slots, here]
            excess = rest + now.sum()
            saved += max(excess, 0.0) - np.maximum(excess + table - now[:, None], 0.0)
        lost = scores[slots, here][:, None] - scores
        price = np.divide(lost, saved, out=np.full(shape, np.inf), where=saved > 1e-12)
        best = int(price.argmin())
        if not np.isfinite(price.flat[best]):
            return None
        here[best // shape[1]] = best % shape[1]
    return tuple(here.tolist())
