"""The last word on a latency budget: what is kept is timed whole, because the sum over its slots is a prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from narfx.latency.whole import WholeLatency
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["InTime", "keep_in_time"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class InTime:
    """The latencies that were measured whole, in the order in which finalists were tried.

    ``bound`` is the largest share of the base's latency that the budget allows.
    """

    bound: float
    tried: tuple[tuple[Record, WholeLatency], ...]

    @property
    def kept(self) -> tuple[Record, WholeLatency]:
        """The first that is within the bound; if none is, the fastest."""
        inside = [each for each in self.tried if each[1].share <= self.bound]
        return inside[0] if inside else min(self.tried, key=lambda each: each[1].share)

    @property
    def message(self) -> str:
        """What to tell of it in one sentence."""
        _, found = self.kept
        said = f"timed whole, the kept vector takes {found.share:.3f} of the base's latency"
        if found.share > self.bound:
            tighter = self.bound * self.bound / found.share
            return (
                f"{said}, and the budget allows {self.bound:.3f}: none of {len(self.tried)} finalists keeps it; search "
                f"with latency<={tighter:.2f}x"
            )
        passed = len(self.tried) - 1
        more = f"; {passed} more accurate did not keep it" if passed else ""
        return f"{said} (budget {self.bound:.3f}){more}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        _, found = self.kept
        return {**found.to_json(), "bound": self.bound, "tried": len(self.tried), "message": self.message}


def keep_in_time(ranked: Sequence[Record], space: SearchSpace, time: Callable[[Vector], WholeLatency]) -> InTime:
    """Time finalists, the most accurate first, until one keeps the space's latency budget.

    The bound is compared as a share of the base's latency: both are measured now, and the machine may be slower or
    faster than when the table of single operators was made.
    """
    bound = space.budget.bounds["latency"] / space.cost(space.base)["latency"]
    tried: list[tuple[Record, WholeLatency]] = []
    for record in ranked:
        tried.append((record, time(space.read(record))))
        if tried[-1][1].share <= bound:
            break
    return InTime(bound, tuple(tried))
