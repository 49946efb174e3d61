"""The interfaces of search strategies, and the registry of those that narfx knows.

A :class:`Strategy` learns from rewards. It sees a :class:`~narfx.space.space.SearchSpace` and nothing else: no torch
graph, no data. So one strategy runs on shared weights, on stand-alone training, or on a table of known rewards. A
:class:`~narfx.search.supernet_strategy.SupernetStrategy` trains with the supernet itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from narfx.space.records import Vector

__all__ = [
    "Evaluated",
    "Proposal",
    "Result",
    "RewardSteps",
    "Scheduled",
    "Strategy",
    "Turn",
    "WeightSteps",
    "alternation",
]


@dataclass(frozen=True)
class Proposal:
    """A vector to be tried; it meets the space's budget. One that is never given back to ``tell`` costs nothing.

    ``data`` is the strategy's own: nobody else reads it, and ``tell`` receives it with the proposal.
    """

    vector: Vector
    data: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Result:
    """The evaluation of a proposal: a reward (higher is better, any range) and, where known, its costs."""

    reward: float
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """A vector that was evaluated: its mean reward, its costs and the number of its evaluations."""

    vector: Vector
    result: Result
    evaluations: int = 1


class Strategy(Protocol):
    """What a search needs of a strategy that learns from rewards."""

    def ask(self, n: int) -> list[Proposal]:
        """``n`` proposals; asking changes what is drawn next, but teaches nothing."""
        ...

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """Learn from one batch of proposals of any size (one step of the strategy); returns metrics for the events."""
        ...

    def finalists(self, n: int) -> list[Vector]:
        """At most ``n`` distinct vectors that deserve a proper evaluation, the most promising first."""
        ...

    def archive(self) -> list[Evaluated]:
        """All vectors that were evaluated, with their results, as far as the strategy remembers them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on in another process: tensors, numbers, strings and containers of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        ...


@dataclass(frozen=True)
class WeightSteps:
    """A turn of the shared weights: so many training minibatches, on vectors that the strategy proposes."""

    minibatches: int


@dataclass(frozen=True)
class RewardSteps:
    """A turn of the strategy: so many batches of proposals, evaluated with the weights fixed."""

    batches: int


Turn: TypeAlias = WeightSteps | RewardSteps


@runtime_checkable
class Scheduled(Protocol):
    """An extra method for a strategy that decides itself in which order weights and rewards come."""

    def schedule(self, epoch: int, minibatches: int, steps: int) -> Iterator[Turn]:
        """The turns of one epoch.

        Args:
            epoch: The number of the epoch in the strategy's stage, after the preparation, from 0.
            minibatches: How many training minibatches an epoch has; the turns may use fewer, not more.
            steps: How many batches of proposals the search was configured to evaluate each epoch.
        """
        ...


def alternation(epoch: int, minibatches: int, steps: int) -> Iterator[Turn]:
    """The default: an epoch of shared weights, then all steps of the strategy (ENAS, arXiv 1802.03268; NAR)."""
    yield WeightSteps(minibatches)
    yield RewardSteps(steps)
