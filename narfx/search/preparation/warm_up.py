"""Warm-up of the shared weights on uniform random vectors (NAR-PreTrain, arXiv 1905.02341)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from narfx.runs.events import Weights
from narfx.search.shared_weights import SharedWeights
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace
from narfx.support.seeds import numpy_generator

__all__ = ["NO_PREPARATION", "WarmUp"]


@dataclass(frozen=True)
class WarmUp:
    """So many epochs, each minibatch on a vector drawn uniformly from those of the space that meet its budget."""

    epochs: int
    label: ClassVar[str] = "uniform random vectors"

    def train(self, epoch: int, own: int, space: SearchSpace, shared: SharedWeights) -> Weights:
        """Train one epoch."""
        losses = shared.epoch(epoch).train(_uniform(space, shared.seed, epoch))
        return Weights(epoch=epoch + 1, loss=sum(losses) / len(losses), lr=shared.rate)


NO_PREPARATION = WarmUp(0)


def _uniform(space: SearchSpace, seed: int, epoch: int) -> Iterator[Vector]:
    sampler, rng = FeasibleSampler(space), numpy_generator(seed, "pretrain", epoch)
    while True:
        yield sampler.draw(rng)
