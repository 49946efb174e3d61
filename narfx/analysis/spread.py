"""Means over seeds with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["spread"]


def spread(values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    """``mean``, its ``standard_error`` (``None`` for one seed) and ``by_seed``."""
    found = np.asarray(values, dtype=float)
    error = float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else None
    return {"mean": float(found.mean()), "standard_error": error, "by_seed": found.tolist()}
