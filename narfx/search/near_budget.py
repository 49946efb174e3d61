"""How much of the budget the kept vector uses, and the best vector near the budget where it uses much less."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from narfx.search.strategy import Evaluated
from narfx.space.budget import Budget
from narfx.space.notebook import amount
from narfx.space.records import Vector

__all__ = ["below_budget", "near_budget"]

_NEAR = 0.95


def near_budget(archive: Iterable[Evaluated], budget: Budget) -> Vector | None:
    """Of all that a strategy tried within 5 % of the budget, the vector with the highest mean reward, if any."""
    if not budget.bounds:
        return None
    near = [entry for entry in archive if _NEAR <= _used(entry.result.costs, budget) <= 1]
    return max(near, key=lambda entry: entry.result.reward).vector if near else None


def below_budget(
    best: Mapping[str, Any],
    finalists: Sequence[Mapping[str, Any]],
    budget: Budget,
    metric: str,
    evaluate: Callable[[], Mapping[str, Any] | None],
) -> dict[str, Any] | None:
    """What to say of a kept vector that is more than 5 % below every bound; ``None`` for any other.

    Args:
        best: The record of the kept vector, with its costs.
        finalists: The records of all finalists.
        budget: The bounds.
        metric: The name of the accuracy, for the message.
        evaluate: Called where no finalist is near the budget: the record of the best other vector that is, if any.

    Returns:
        ``{"used", "nearest", "message"}``: the largest share of a bound that the kept vector uses, the record of the
        best vector that uses at least 95 % of one (``None`` where none was tried), and a sentence.
    """
    if not budget.bounds or (used := _used(best, budget)) >= _NEAR:
        return None
    near = [record for record in finalists if _used(record, budget) >= _NEAR]
    nearest = max(near, key=lambda record: record["accuracy"]) if near else evaluate()
    costs = ", ".join(
        f"{amount(name, best[name])} of {amount(name, bound)} {name}" for name, bound in budget.bounds.items()
    )
    found = (
        "the search tried none within 5 % of it"
        if nearest is None
        else f"the best one within 5 % of it has {metric.replace('_', ' ')} {nearest['accuracy']:.4f} against "
        f"{best['accuracy']:.4f}: {nearest['vector']}"
    )
    message = f"the kept vector is {1 - used:.0%} below the budget ({costs}); {found}"
    return {"used": used, "nearest": None if nearest is None else dict(nearest), "message": message}


def _used(record: Mapping[str, Any], budget: Budget) -> float:
    return float(max(record[name] / bound for name, bound in budget.bounds.items()))
