"""Warm-up of the shared weights on uniform random vectors (NAR-PreTrain, arXiv 1905.02341)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

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

    def train(self, epoch: int, space: SearchSpace, shared: SharedWeights) -> float:
        """Train one epoch; returns the mean loss."""
        losses = shared.epoch(epoch).train(_uniform(space, shared.seed, epoch))
        return sum(losses) / len(losses)


NO_PREPARATION = WarmUp(0)


def _uniform(space: SearchSpace, seed: int, epoch: int) -> Iterator[Vector]:
    sampler, rng = FeasibleSampler(space), numpy_generator(seed, "pretrain", epoch)
    while True:
        yield sampler.draw(rng)
