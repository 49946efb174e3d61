"""The best vectors of a search space by additive scores, under its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice

from narfx.errors import UsageError
from narfx.space.knapsack import knapsack
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["best_vectors", "check_scores", "feasible_vector"]


def best_vectors(
    space: SearchSpace, scores: Mapping[tuple[int, int], float], n: int = 1, *, most_shared: int | None = None
) -> list[Vector]:
    """At most ``n`` distinct vectors that meet the budget, those with the least sum of scores, best first.

    Args:
        space: The space, with its budget.
        scores: What a choice costs in quality, by (slot, index of the choice); every legal pair needs one.
        n: How many vectors.
        most_shared: The most entries that any two of them may have in common, so that they differ (LANA, arXiv
            2107.10624, allows 70 % of the slots); by default they need only be distinct.

    Raises:
        UsageError: A legal choice has no score, or one that is not a finite number.
    """
    check_scores(space, scores)
    found = knapsack(
        space.slots, space.fixed, space.budget.bounds, space.feasible, scores=scores, most_shared=most_shared
    )
    return list(islice(found, n))


def feasible_vector(space: SearchSpace, preference: Mapping[tuple[int, int], float] | None = None) -> Vector | None:
    """A legal vector that meets all bounds of the space's budget at once, or ``None`` if there is none.

    Of the vectors that fit, the one with the least sum of ``preference[slot, choice]`` is taken, without a
    preference a cheap one.
    """
    return next(knapsack(space.slots, space.fixed, space.budget.bounds, space.feasible, scores=preference), None)


def check_scores(space: SearchSpace, scores: Mapping[tuple[int, int], float]) -> None:
    """Check that every legal choice has a finite score.

    Raises:
        UsageError: One has none; the message names slot and choice.
    """
    for index, slot in enumerate(space.slots):
        for k in slot.legal:
            score = scores.get((index, k))
            if score is None or not math.isfinite(score):
                what = "no score" if score is None else f"the score {score}"
                raise UsageError(
                    f"choice {k} ({slot.choices[k]}) of slot {index} ({slot.name}) has {what}: every legal choice "
                    "needs a finite one",
                    where="scores",
                    kind="scores_incomplete",
                )
