"""A budget: upper bounds on the costs of a network, as a user writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from narfx.errors import UsageError

__all__ = ["Budget"]

_TERM = re.compile(r"\s*([a-z_]+)\s*<=\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(x|k|m|g)?\s*", re.IGNORECASE)
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Budget:
    """Upper bounds by metric, absolute (MACs of one sample, parameters); none at all by default."""

    bounds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, base: Mapping[str, float]) -> Budget:
        """Read ``"macs<=0.8x"``, ``"macs<=1.2G,params<=9M"`` or ``"none"``; ``x`` is relative to ``base``.

        Raises:
            UsageError: The text has another form, names a metric twice or one that ``base`` does not hold.
        """
        if text.strip().lower() == "none":
            return cls()
        bounds: dict[str, float] = {}
        for term in text.split(","):
            match = _TERM.fullmatch(term)
            if match is None:
                raise UsageError(
                    f"cannot read the budget {term.strip()!r}: write macs<=0.8x, macs<=1.2G, params<=9M, "
                    "several of them with commas between, or none",
                    where="--budget",
                    kind="budget_syntax",
                )
            metric, number, unit = match[1].lower(), float(match[2]), (match[3] or "").lower()
            if metric not in base:
                raise UsageError(
                    f"the budget bounds {metric!r}, but the costs known here are {', '.join(base)}",
                    where="--budget",
                    kind="unknown_metric",
                )
            if metric in bounds:
                raise UsageError(f"the budget bounds {metric!r} twice", where="--budget", kind="budget_syntax")
            bounds[metric] = number * base[metric] if unit == "x" else number * _SCALE[unit]
        return cls(bounds)

    def met_by(self, cost: Mapping[str, float]) -> bool:
        """Whether ``cost`` stays within every bound."""
        return all(cost[metric] <= bound for metric, bound in self.bounds.items())

    def __str__(self) -> str:
        return ",".join(f"{metric}<={bound:.12g}" for metric, bound in self.bounds.items()) or "none"
