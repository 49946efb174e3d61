"""A budget: upper bounds on the costs of a network, as a user writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, isfinite

from narfx.errors import UsageError

__all__ = ["Budget", "bounded_metrics", "budget_range", "ranged_metric", "unknown_metric"]

_TERM = re.compile(r"\s*([a-z_]+)\s*<=\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_NUMBER = r"([0-9]*\.?[0-9]+)"
_RANGE = re.compile(rf"\s*([a-z_]+)\s*<=\s*{_NUMBER}\s*([a-z]*)\s*\.\.\s*{_NUMBER}\s*([a-z]*)\s*", re.IGNORECASE)
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Budget:
    """Upper bounds by metric, absolute (MACs of one sample, parameters, milliseconds); by default none."""

    bounds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, base: Mapping[str, float]) -> Budget:
        """Read ``"macs<=0.8x"``, ``"macs<=1.2G,latency<=5ms"`` or ``"none"``; ``x`` is relative to ``base``.

        Bounds on counts become whole numbers.

        Raises:
            UsageError: The text has another form, names a metric twice or one that ``base`` does not hold, or a unit
                that the metric does not have.
        """
        if text.strip().lower() == "none":
            return cls()
        bounds: dict[str, float] = {}
        for term in text.split(","):
            match = _TERM.fullmatch(term)
            if match is None:
                raise UsageError(
                    f"cannot read the budget {term.strip()!r}: write macs<=0.8x, macs<=1.2G, params<=9M, latency<=5ms, "
                    "several of them with commas between, or none",
                    where="--budget",
                    kind="budget_syntax",
                )
            metric, number, unit = match[1].lower(), float(match[2]), match[3].lower()
            if metric not in base:
                raise unknown_metric(metric, base)
            if metric in bounds:
                raise UsageError(
                    f"the budget bounds {metric!r} twice: remove one bound", where="--budget", kind="budget_syntax"
                )
            bound = number * (base[metric] if unit == "x" else _scale(metric, unit, term.strip()))
            whole = metric != "latency" and isfinite(bound)  # a count is within 30.8 where it is within 30
            bounds[metric] = floor(round(bound, 3)) if whole else bound
        return cls(bounds)

    def met_by(self, cost: Mapping[str, float]) -> bool:
        """Whether ``cost`` stays within every bound."""
        return all(cost[metric] <= bound for metric, bound in self.bounds.items())

    def __str__(self) -> str:
        units = {"latency": "ms"}
        return ",".join(f"{name}<={bound:.12g}{units.get(name, '')}" for name, bound in self.bounds.items()) or "none"


def budget_range(text: str, points: int) -> tuple[str, ...]:
    """The budgets of ``"macs<=0.3x..0.9x,params<=0.8x"``: so many, from the one bound to the other in equal steps.

    A text without a range is one budget, whatever ``points`` says.

    Raises:
        UsageError: Several metrics have a range, the ends cannot be read, or there are fewer than two points.
    """
    terms = [term.strip() for term in text.split(",")]
    ranged = [index for index, term in enumerate(terms) if ".." in term]
    if not ranged:
        return (text,)
    match = _RANGE.fullmatch(terms[ranged[0]])
    if match is None or len(ranged) > 1:
        raise UsageError(
            f"cannot read the budget {text!r}: a range is written as macs<=0.3x..0.9x, for one metric only",
            where="--budget",
            kind="budget_syntax",
        )
    if points < 2:
        raise UsageError(
            f"a range of budgets needs at least 2 points, not {points}", where="--points", kind="budget_points"
        )  # fmt: skip
    if match[3] and match[3].lower() != match[5].lower():
        raise UsageError(
            f"the ends of {terms[ranged[0]]!r} have two units: write both in one, as in macs<=500K..2000K",
            where="--budget",
            kind="budget_syntax",
        )
    metric, low, unit, high = match[1], float(match[2]), match[3] or match[5], float(match[4])
    if low > high:
        low, high = high, low
    steps = [low + (high - low) * index / (points - 1) for index in range(points)]
    spelled = [f"{metric}<={step:.6g}{unit}" for step in steps]
    return tuple(",".join([*terms[: ranged[0]], term, *terms[ranged[0] + 1 :]]) for term in spelled)


def ranged_metric(text: str) -> str:
    """The metric that has a range, else the first one that is bounded."""
    terms = text.split(",")
    term = next((term for term in terms if ".." in term), terms[0])
    return term.partition("<=")[0].strip().lower()


def bounded_metrics(text: str) -> tuple[str, ...]:
    """The metrics that a budget's text names, whether or not the rest of it can be read."""
    return tuple(term.partition("<=")[0].strip().lower() for term in text.split(",") if "<=" in term)


def unknown_metric(
    metric: str,
    known: Mapping[str, float] | tuple[str, ...],
    *,
    where: str = "--budget",
    said: str = "the budget bounds",
) -> UsageError:
    """The error for a metric that is not known; ``said`` says who names it, and ``where`` which option."""
    cure = {
        "latency": ": latency is one where it was measured (--latency, or --latency-file F)",
        **dict.fromkeys(
            ("flop", "flops", "mflops", "gflops"),
            ": narfx counts MACs (multiply-accumulates); FLOPs are twice as many, so bound macs by half the number "
            "(a relative bound stays: flops<=0.8x is macs<=0.8x)",
        ),
        **dict.fromkeys(("mac", "madds", "multadds"), ": write macs"),
        **dict.fromkeys(("param", "parameters", "size"), ": write params"),
        **dict.fromkeys(("ms", "time", "speed"), ": write latency"),
    }
    return UsageError(
        f"{said} {metric!r}, but the costs known here are {', '.join(known)}{cure.get(metric, '')}",
        where=where,
        kind="unknown_metric",
    )


def _scale(metric: str, unit: str, term: str) -> float:
    """The factor from a unit to the metric's own (one, or a millisecond)."""
    units = _TIMES if metric == "latency" else _COUNTS
    if unit not in units:
        raise UsageError(
            f"cannot read the budget {term!r}: {metric} is bounded relative to the base (0.8x) or "
            + ("in us, ms or s" if metric == "latency" else "by a number, optionally followed by K, M or G"),
            where="--budget",
            kind="budget_syntax",
        )
    return units[unit]
