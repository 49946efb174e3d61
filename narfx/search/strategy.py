"""The interface of a search strategy, and the registry of those that narfx knows.

A strategy sees a :class:`~narfx.space.space.SearchSpace` and nothing else: no torch graph, no data. So one strategy
runs on shared weights, on stand-alone training, or on a table of known rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from narfx.errors import UsageError
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["Proposal", "Result", "Strategy", "make_strategy", "register_strategy", "strategy_names"]


@dataclass(frozen=True)
class Proposal:
    """A vector to be tried; it meets the space's budget. One that is never told costs nothing."""

    vector: Vector


@dataclass(frozen=True)
class Result:
    """What a proposal earned: a reward (higher is better, any range) and, where known, its costs."""

    reward: float
    costs: Mapping[str, float] = field(default_factory=dict)


class Strategy(Protocol):
    """What a search needs of a strategy."""

    def ask(self, n: int) -> list[Proposal]:
        """``n`` proposals; asking changes what is drawn next, but teaches nothing."""
        ...

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """Learn from one lot of any size (one step of the strategy); returns metrics for the record."""
        ...

    def finalists(self, n: int) -> list[Vector]:
        """At most ``n`` distinct vectors that deserve a proper evaluation, the most promising first."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on in another process: tensors, numbers, strings and containers of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        ...


_REGISTRY: dict[str, Callable[..., Strategy]] = {}


def register_strategy(name: str, factory: Callable[..., Strategy]) -> None:
    """Make ``factory(space, seed=..., **options)`` known under ``name``."""
    _REGISTRY[name] = factory


def strategy_names() -> tuple[str, ...]:
    """The names that ``make_strategy`` knows."""
    return tuple(sorted(_REGISTRY))


def make_strategy(name: str, space: SearchSpace, *, seed: int = 0, **options: Any) -> Strategy:
    """Build a strategy by name.

    Raises:
        UsageError: The name is unknown, or an option is unknown to the strategy or has a value it refuses.
    """
    if name not in _REGISTRY:
        raise UsageError(
            f"unknown strategy {name!r}: there are {', '.join(strategy_names())}",
            where="--strategy",
            kind="unknown_strategy",
        )
    try:
        return _REGISTRY[name](space, seed=seed, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"strategy {name!r} refuses its options: {error}", where="--strategy", kind="strategy_option"
        ) from error
