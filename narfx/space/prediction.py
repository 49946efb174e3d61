"""How well predicted costs in quality agree with those that were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["prediction_quality"]


def prediction_quality(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, Any]:
    """Kendall's tau (b) of predictions and measurements, and the mean absolute error of the predictions.

    Returns:
        ``{"vectors", "kendall_tau", "mean_error", "mean_measured"}``; pairs that are not finite are left out, and tau
        is ``None`` where fewer than two are left, or all of them are equal.
    """
    from scipy.stats import kendalltau

    pairs = [(p, m) for p, m in zip(predicted, measured, strict=True) if math.isfinite(p) and math.isfinite(m)]
    tau = float(kendalltau(*zip(*pairs, strict=True)).statistic) if len(pairs) > 1 else math.nan
    n = max(len(pairs), 1)
    return {
        "vectors": len(pairs),
        "kendall_tau": tau if math.isfinite(tau) else None,
        "mean_error": sum(abs(p - m) for p, m in pairs) / n,
        "mean_measured": sum(m for _, m in pairs) / n,
    }
