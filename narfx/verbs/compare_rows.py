"""The numbers of a comparison: means, standard errors, and each architecture against its base and random vectors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from narfx.space.metrics import metric
from narfx.support.differences import Difference, over_seeds
from narfx.support.text import count

__all__ = ["beside", "spread_of", "verdict"]

Row = Mapping[str, Any]


def spread_of(values: Sequence[float]) -> dict[str, Any]:
    """``accuracies``, their ``mean`` and its ``standard_error`` (``None`` for a single value)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"accuracies": list(values), "mean": statistics.fmean(values), "standard_error": error}


def beside(own: Row, base: Row, randoms: Sequence[Row]) -> dict[str, Any]:
    """One architecture's row compared with those of its base and its random vectors.

    Returns:
        ``{"network", "base", "against_base", "random": {"vectors", "mean", "standard_error", "best", "better_than",
        "against"}}``: rows by name. ``random`` summarises the mean accuracies of the random vectors: number,
        mean, its standard error, the best, and how many are lower than the architecture's. ``against_base`` and
        ``against`` hold ``{"difference", "standard_error", "verdict"}``, paired over seeds (``None`` where there is
        nothing to compare with). With verification, ``"verification"`` has the same for it.
    """
    result = {"network": own["name"], "base": base["name"], **_beside(own, base, randoms)}
    if "verification" in own:
        verified = [row["verification"] for row in randoms]
        result["verification"] = _beside(own["verification"], base["verification"], verified)
    return result


def _beside(own: Row, base: Row, randoms: Sequence[Row]) -> dict[str, Any]:
    return {"against_base": None if own is base else _less(own, [base]).to_json(), "random": _random(own, randoms)}


def _random(own: Row, randoms: Sequence[Row]) -> dict[str, Any]:
    if not randoms:
        empty = dict.fromkeys(("mean", "standard_error", "best"))
        return {"vectors": 0, **empty, "better_than": 0, "against": None}
    means = [row["mean"] for row in randoms]
    found = spread_of(means)
    return {
        "vectors": len(means),
        "mean": found["mean"],
        "standard_error": found["standard_error"],
        "best": max(means),
        "better_than": sum(own["mean"] > mean for mean in means),
        "against": _less(own, randoms).to_json(),
    }


def _less(own: Row, others: Sequence[Row]) -> Difference:
    return over_seeds(own["accuracies"], [row["accuracies"] for row in others])


def verdict(name: str, own: Row, randoms: Sequence[Row], equal: Iterable[str], part: str) -> str:
    """What may be said of an architecture beside random vectors of ``equal`` costs, in one sentence."""
    costs = " and ".join(metric(cost).words for cost in equal)
    if not randoms:
        return f"no random vector was trained: none was asked for, or no other one has {costs} within 2 % below"
    network = "the refined network" if name == "refined" else name
    others = f"the mean of {count(len(randoms), 'random vector')} of equal {costs}"
    seeds = len(own["accuracies"])
    chosen = "" if part == "test" else "; the validation images may have chosen it, which favours it"
    more = "; one seed does not show how much trainings differ: give --seeds 3 or more" if seeds == 1 else ""
    said = _less(own, randoms).than(others)
    return f"{network} ({own['mean']:.4f}): {said}, paired over {count(seeds, 'seed')}{more}{chosen}"
