"""What strategies that breed a population of evaluated vectors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from narfx.search.history import History
from narfx.search.strategy import Evaluated
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["PopulationStrategy"]

Member = tuple[Vector, float]


class PopulationStrategy(ABC):
    """A strategy whose state is a generator, a population of vectors with their rewards, and what was observed."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._rng = np.random.default_rng(seed)
        self._history = History(space)
        self._mutable = [index for index, slot in enumerate(space.slots) if len(slot.legal) > 1]

    @abstractmethod
    def _members(self) -> Iterable[Member]:
        """The population, each vector with its reward."""

    @abstractmethod
    def _revive(self, members: Iterable[Member]) -> None:
        """Make these the population; the history is that of the same moment."""

    def finalists(self, n: int) -> list[Vector]:
        """The evaluated vectors of highest mean reward."""
        return self._history.best(n)

    def archive(self) -> list[Evaluated]:
        """All vectors that were evaluated, as far as the history holds them."""
        return self._history.archive()

    def state_dict(self) -> dict[str, Any]:
        """The generator, the population and what was observed."""
        return {
            "generator": self._rng.bit_generator.state,
            "population": [[list(vector), reward] for vector, reward in self._members()],
            "record": self._history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._rng.bit_generator.state = state["generator"]
        self._history.load_state_dict(state["record"])
        self._revive((tuple(vector), reward) for vector, reward in state["population"])
