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
_VECTOR = ("vector", "skips")


def near_budget(archive: Iterable[Evaluated], budget: Budget) -> Vector | None:
    """Of all that a strategy tried within 5 % of the budget, the vector with the highest mean reward, if any."""
    if not budget.bounds:
        return None
    near = [entry for entry in archive if _NEAR <= _used(entry.result.costs, budget) <= 1]
    return max(near, key=lambda entry: entry.result.reward).vector if near else None


def below_budget(
    best: Mapping[str, Any],
    finalists: Sequence[Mapping[str, Any]],
    dearest: Mapping[str, Any],
    budget: Budget,
    metric: str,
    evaluate: Callable[[], Mapping[str, Any] | None],
) -> dict[str, Any] | None:
    """What to say of a kept vector that is more than 5 % below every bound; ``None`` for any other.

    Args:
        best: The record of the kept vector, with its costs.
        finalists: The records of all finalists.
        dearest: The record of the vector of most MACs within the budget, whether the search tried it or not.
        budget: The bounds.
        metric: The name of the accuracy, for the message.
        evaluate: Called where no finalist is near the budget: the record of the best other vector that is, if any.

    Returns:
        ``{"used", "nearest", "origin", "message"}``: the largest share of a bound that the kept vector uses, the record
        of a vector near the budget, and a sentence. ``origin`` says which one that is: the best that uses at least
        95 % of a bound, of the ``finalists`` or of all that was ``tried``; else ``most_macs``, which may use less.
        ``nearest`` is ``None`` where the kept vector itself has the most MACs.
    """
    if not budget.bounds or (used := _used(best, budget)) >= _NEAR:
        return None
    near = [record for record in finalists if _used(record, budget) >= _NEAR]
    nearest, origin = (max(near, key=lambda record: record["accuracy"]), "finalists") if near else (evaluate(), "tried")
    which = "the best one within 5 % of it"
    if nearest is None:
        origin, which = "most_macs", f"the one of most MACs within it ({_costs(dearest, budget)}), which was evaluated,"
        nearest = None if all(best.get(key) == dearest.get(key) for key in _VECTOR) else dearest
    found = "" if origin != "most_macs" else "the search tried none within 5 % of it; "
    if nearest is None:
        found += "no vector within the budget has more MACs than the kept one"
    else:
        found += (
            f"{which} has {metric.replace('_', ' ')} {nearest['accuracy']:.4f} against {best['accuracy']:.4f}: "
            f"{nearest['vector']}"
        )
    message = f"the kept vector is {1 - used:.0%} below the budget ({_costs(best, budget)}); {found}"
    return {"used": used, "nearest": None if nearest is None else dict(nearest), "origin": origin, "message": message}


def _costs(record: Mapping[str, Any], budget: Budget) -> str:
    return ", ".join(
        f"{amount(name, record[name])} of {amount(name, bound)} {name}" for name, bound in budget.bounds.items()
    )


def _used(record: Mapping[str, Any], budget: Budget) -> float:
    return float(max(record[name] / bound for name, bound in budget.bounds.items()))
