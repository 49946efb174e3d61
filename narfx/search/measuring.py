"""The interface of strategies that measure architectures with the weights as they are, and train nothing.

Such a strategy learns nothing from rewards on minibatches: it asks a judge for as many architectures as it likes, and
computes. It sees a space and numbers, no network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from narfx.search.strategy import Evaluated
from narfx.space.records import Vector
from narfx.space.scores import ScoreTable

__all__ = ["Judge", "Judged", "MeasuringStrategy"]


@dataclass(frozen=True)
class Judged:
    """What an architecture loses against the base, with standard errors over the images.

    ``loss`` is the rise of the mean loss, ``divergence`` the mean distance of the outputs from the base's, ``mistakes``
    the rise of the share of images that are classified wrongly.
    """

    loss: float
    loss_error: float
    divergence: float
    divergence_error: float
    mistakes: float
    mistakes_error: float

    @property
    def finite(self) -> bool:
        """Whether the network gave numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.divergence)


class Judge(Protocol):
    """Measures architectures, all on the same ``images``; ``base`` is what the base has there: loss and accuracy."""

    @property
    def images(self) -> int:
        """How many images there are."""
        ...

    @property
    def base(self) -> Mapping[str, float]:
        """The ``loss`` and the ``accuracy`` of the base."""
        ...

    def __call__(self, vectors: Iterable[Vector], label: str) -> list[Judged]:
        """Judge these vectors; ``label`` says in a few words what they are, for progress."""
        ...


@runtime_checkable
class MeasuringStrategy(Protocol):
    """What a search needs of a strategy that measures.

    The registered factory is called as that of a :class:`~narfx.search.strategy.Strategy`, with the space and a seed.
    """

    def measure(self, judge: Judge) -> Mapping[str, Any]:
        """One epoch of the stage: measure, and compute what follows.

        Returns:
            Metrics for a ``scored`` event.
        """
        ...

    def scores(self) -> ScoreTable | None:
        """The scores of single replacements that were measured last; the search keeps them in ``scores.json``."""
        ...

    @property
    def prediction(self) -> Mapping[str, Any]:
        """How well the scores predict what random vectors lose, as plain values; empty before any round."""
        ...

    def finalists(self, n: int) -> list[Vector]:
        """At most ``n`` distinct vectors that deserve a proper evaluation, the most promising first."""
        ...

    def archive(self) -> list[Evaluated]:
        """All vectors that were measured, with their results."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on in another process: numbers, strings and containers of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        ...
