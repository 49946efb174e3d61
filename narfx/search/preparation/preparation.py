"""The interface of a preparation."""

from __future__ import annotations

from typing import Protocol

from narfx.runs.events import Event
from narfx.search.shared_weights import SharedWeights
from narfx.space.space import SearchSpace

__all__ = ["Preparation"]


class Preparation(Protocol):
    """What trains the supernet at the beginning of a stage, without the stage's strategy.

    It has no state of its own: what an epoch does follows from its number, the seed and the weights, so that a search
    can be resumed at each epoch.
    """

    @property
    def epochs(self) -> int:
        """How many epochs it takes; 0 prepares nothing."""
        ...

    @property
    def label(self) -> str:
        """Two or three words for progress: what it trains on."""
        ...

    def train(self, epoch: int, own: int, space: SearchSpace, shared: SharedWeights) -> Event:
        """Train one epoch in the stage's space.

        Args:
            epoch: The number of the epoch in the whole search, from 0.
            own: Its number in this preparation, from 0.
            space: The space of the stage.
            shared: The supernet, its task and its optimizer.

        Returns:
            What is written into the run's events.
        """
        ...
