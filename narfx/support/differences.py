"""Differences of means with standard errors, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "over_images", "over_seeds"]

_LEVEL = 0.95
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How much one thing is better than another, with its standard error.

    ``freedom`` is the number of degrees of freedom of the standard error. Both are ``None`` where nothing was measured
    twice, so that nothing can be said.
    """

    value: float
    standard_error: float | None = None
    freedom: float | None = None

    @classmethod
    def of(cls, value: float, *parts: tuple[float, float]) -> Difference:
        """A difference whose variance is the sum of independent ``parts``, each with its degrees of freedom."""
        known = [(variance, freedom) for variance, freedom in parts if freedom > 0]
        if len(known) < len(parts) or not known:
            return cls(value)
        variance = sum(part for part, _ in known)
        spent = sum(part**2 / freedom for part, freedom in known)  # Welch and Satterthwaite
        freedom = variance**2 / spent if spent else sum(freedom for _, freedom in known)
        return cls(value, math.sqrt(variance), freedom)

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the 95 % interval (Student's t) leaves out zero, else ``not told apart``."""
        if self.standard_error is None or self.freedom is None:
            return "not told apart"
        from scipy.special import stdtrit

        reach = self.standard_error * float(stdtrit(self.freedom, (1 + _LEVEL) / 2))
        if abs(self.value) <= reach:
            return "not told apart"
        return "better" if self.value > 0 else "worse"

    def than(self, other: str) -> str:
        """The verdict in words, with the numbers."""
        error = "one measurement has no standard error" if self.standard_error is None else f"{self.standard_error:.4f}"
        if self.verdict == "not told apart":
            numbers = f"{self.value:+.4f}; {error}" if self.standard_error is None else f"{self.value:+.4f} ± {error}"
            return f"not told apart from {other} ({numbers})"
        return f"{self.verdict} by {abs(self.value):.4f} ± {error} than {other}"

    def to_json(self) -> dict[str, Any]:
        """``difference``, ``standard_error`` and ``verdict``."""
        return {"difference": self.value, "standard_error": self.standard_error, "verdict": self.verdict}


def over_images(own: NDArray[np.bool_], others: Sequence[NDArray[np.bool_]]) -> Difference:
    """The accuracy of one network less the mean of others, paired over images (for one other: as McNemar's test).

    Where there are several others, they stand for all that could have been drawn, so that their spread is a part of
    the error. One discordant image more than there are is assumed, so that few images that agree prove nothing.

    Args:
        own: Whether each image (N,) is classified right.
        others: The same of each other network, at least one.
    """
    rest = np.stack(others).astype(float)
    differences = own.astype(float) - rest.mean(0)
    images, value = len(differences), float(differences.mean())
    scatter = float(((differences - value) ** 2).sum()) + 1
    parts = [(scatter / images**2, images - 1.0)]
    if len(rest) > 1:
        parts.append((float(rest.mean(1).var(ddof=1)) / len(rest), len(rest) - 1.0))
    return Difference.of(value, *parts)


def over_seeds(own: Sequence[float], others: Sequence[Sequence[float]]) -> Difference:
    """The mean of one network's values less the mean of others', paired over seeds.

    The spread of several others is a part of the error, as in :func:`over_images`.

    Args:
        own: A value for each seed, the same seeds everywhere.
        others: The values of each other network, at least one.
    """
    rest = np.array(others, dtype=float)
    differences = np.array(own, dtype=float) - rest.mean(0)
    seeds, value = len(differences), float(differences.mean())
    parts = [(float(differences.var(ddof=1)) / seeds, seeds - 1.0) if seeds > 1 else (0.0, 0.0)]
    if len(rest) > 1:
        parts.append((float(rest.mean(1).var(ddof=1)) / len(rest), len(rest) - 1.0))
    return Difference.of(value, *parts)
