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
    bounds = space.budget.bounds
    here = list(vector)
    while not space.feasible(here):
        cost = space.cost(here)
        # What is above each bound, as a share of it, so that several bounds add up.
        excess = {m: (cost[m] - bound) / max(abs(bound), 1e-12) for m, bound in bounds.items()}
        best: tuple[float, int, int] | None = None
        for index, slot in enumerate(space.slots):
            for k in slot.legal:
                after = {
                    m: excess[m] + (slot.costs[m][k] - slot.costs[m][here[index]]) / max(abs(bound), 1e-12)
                    for m, bound in bounds.items()
                }
                saved = sum(max(x, 0.0) for x in excess.values()) - sum(max(x, 0.0) for x in after.values())
                if saved > 1e-12:
                    price = (float(scores[index, here[index]] - scores[index, k]) / saved, index, k)
                    best = price if best is None else min(best, price)
        if best is None:
            return None
        here[best[1]] = best[2]
    return tuple(here)
