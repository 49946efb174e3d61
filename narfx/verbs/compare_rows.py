"""The numbers of a comparison: means, standard errors, and each architecture against its base and random vectors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["beside", "spread_of", "verdict"]


def spread_of(values: Sequence[float]) -> dict[str, Any]:
    """``accuracies``, their ``mean`` and its ``standard_error`` (``None`` for a single value)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"accuracies": list(values), "mean": statistics.fmean(values), "standard_error": error}


def beside(own: Mapping[str, Any], base: Mapping[str, Any], randoms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One architecture's row compared with those of its base and its random vectors.

    Returns:
        ``{"network", "base", "random": {"vectors", "mean", "standard_error", "best", "better_than"}}``: rows by name;
        ``random`` summarises the mean accuracies of the random vectors: their number, their mean, its standard error,
        the best, and how many the architecture beats. With verification, ``"verification"`` has ``random`` for it.
    """
    result = {"network": own["name"], "base": base["name"], "random": _random(own, randoms)}
    if "verification" in own:
        result["verification"] = {"random": _random(own["verification"], [row["verification"] for row in randoms])}
    return result


def _random(own: Mapping[str, Any], randoms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not randoms:
        return {"vectors": 0, "mean": None, "standard_error": None, "best": None, "better_than": 0}
    means = [row["mean"] for row in randoms]
    found = spread_of(means)
    return {
        "vectors": len(means),
        "mean": found["mean"],
        "standard_error": found["standard_error"],
        "best": max(means),
        "better_than": sum(own["mean"] > mean for mean in means),
    }


def verdict(name: str, mean: float, random: Mapping[str, Any], part: str) -> str:
    """The result of an architecture against random vectors, in one sentence."""
    count = random["vectors"]
    if not count:
        return "no random vector was trained: none was asked for, or no other one has MACs within 2 % below"
    said = "beat" if random["better_than"] == count else "did NOT beat all of"
    network = "the refined network" if name == "refined" else name
    chosen = f"; the validation images may have chosen {'the refined one' if name == 'refined' else 'it'}, which "
    return (
        f"{network} ({mean:.4f}) {said} the {count} random vectors of equal MACs "
        f"(mean {random['mean']:.4f}, best {random['best']:.4f}; better than {random['better_than']})"
        + ("" if part == "test" else f"{chosen}favours it")
    )
