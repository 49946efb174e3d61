"""The vectors of least summed score, in which ``none`` stands only where the budget needs it."""

from __future__ import annotations

from collections.abc import Mapping

from narfx.errors import InfeasibleBudgetError
from narfx.space.records import Vector
from narfx.space.solver import best_vectors
from narfx.space.space import SearchSpace

__all__ = ["NONE", "strongest_vectors"]

NONE = "none"


def strongest_vectors(space: SearchSpace, scores: Mapping[tuple[int, int], float], n: int) -> list[Vector]:
    """At most ``n`` distinct vectors that meet the budget, those with the least sum of scores first.

    Where a site offers anything else, ``none`` is left out, because its weight in a mixture says little: a larger one
    only scales down the sum that it is part of, and the next norm scales that up again (DARTS, arXiv 1806.09055,
    section 2.4). A budget that cannot be met so has as few of them as it allows.

    Args:
        space: The space, with its budget.
        scores: As for :func:`~narfx.space.solver.best_vectors`.
        n: How many vectors.
    """
    nothing = {
        (index, k)
        for index, slot in enumerate(space.slots)
        for k in slot.legal
        if slot.skip is None and slot.choices[k] == NONE and len(slot.legal) > 1
    }
    try:
        kept = space.restrict({i: [k for k in space.slots[i].legal if (i, k) not in nothing] for i, _ in nothing})
    except InfeasibleBudgetError:
        spans = [
            max(own) - min(own)
            for index, slot in enumerate(space.slots)
            if (own := [scores[index, k] for k in slot.legal if (index, k) not in nothing])
        ]
        floors = {i: min(scores[i, k] for k in space.slots[i].legal if (i, k) not in nothing) for i, _ in nothing}
        dearer = {(i, k): floors[i] + sum(spans) + 1 for i, k in nothing}
        return best_vectors(space, {**scores, **dearer}, n)
    return best_vectors(kept, scores, n)
