"""Which of several processes this one is, when one search or training runs in more than one."""

from __future__ import annotations

from dataclasses import dataclass

from narfx.support.seeds import derive

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """The number of this process (from 0) and of all processes of a run.

    Nothing here communicates: whoever starts the processes keeps them in step.

    Raises:
        ValueError: ``rank`` is not in 0, ..., ``size`` − 1.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} of {self.size} does not exist: ranks count from 0 to size - 1")

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes files and takes the run's lock."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """The seed of this rank's own draws; rank 0 keeps the run's seed, so a single process draws as ever."""
        return seed if self.first else derive(seed, "rank", self.rank)
