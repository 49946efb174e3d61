"""Which of several processes this one is, when one search or training runs in more than one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from narfx.support.seeds import derive

__all__ = ["Ranks"]

T = TypeVar("T")
S = TypeVar("S", bound="_Sliced")


class _Sliced(Protocol):
    def __getitem__(self, index: slice, /) -> Any: ...


@dataclass(frozen=True)
class Ranks:
    """The number of this process (from 0) and of all processes of a run; ``local`` is its number on this machine.

    Nothing here communicates: :mod:`narfx.support.joining` starts the group, :mod:`narfx.support.collectives` talks.

    Raises:
        ValueError: ``rank`` is not in 0, ..., ``size`` − 1.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} of {self.size} does not exist: ranks count from 0 to size - 1")

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes files, prints, and takes the run's lock."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.size == 1

    def seed(self, seed: int) -> int:
        """The seed of this rank's own draws; rank 0 keeps the run's seed, so a single process draws as ever."""
        return seed if self.first else derive(seed, "rank", self.rank)

    def share(self, items: S) -> S:
        """What this rank takes of items that the ranks divide: every ``size``-th, from the ``rank``-th on."""
        mine: S = items[self.rank :: self.size]
        return mine

    def cut(self, costs: Sequence[float]) -> list[list[int]]:
        """The indices of the items that each rank takes: neighbours, cut so that the sums of costs are about equal.

        No sum exceeds the mean of the ranks by more than the dearest item. All ranks compute the same.
        """
        taken: list[list[int]] = [[] for _ in range(self.size)]
        whole, done = sum(costs), 0.0
        for index, cost in enumerate(costs):
            middle = (done + cost / 2) / whole if whole else index / len(costs)
            taken[min(int(middle * self.size), self.size - 1)].append(index)
            done += cost
        return taken

    def merged(self, shares: Sequence[Sequence[T]]) -> list[T]:
        """The items in their order, from the shares of all ranks: the inverse of :meth:`share`."""
        merged: list[T] = []
        for index in range(sum(map(len, shares))):
            merged.append(shares[index % self.size][index // self.size])
        return merged
