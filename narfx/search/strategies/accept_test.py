"""The accept test of an alternating search: candidates against the incumbent, on the same minibatches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narfx.space.records import Vector

__all__ = ["AcceptTest"]


class AcceptTest:
    """Mean rewards of an incumbent and of candidates over the batches of proposals that hold the incumbent."""

    def __init__(self, incumbent: Vector, candidates: Sequence[Vector]) -> None:
        self.incumbent, self.candidates = incumbent, list(candidates)
        self.batches = 0
        self._means: dict[Vector, tuple[int, float]] = {}

    def take(self, batch: Sequence[tuple[Vector, float]]) -> None:
        """Count a batch that holds the incumbent; of a repeated vector the first reward counts."""
        rewards = dict(reversed(batch))
        if self.incumbent not in rewards:
            return
        self.batches += 1
        for vector in (self.incumbent, *self.candidates):
            if vector in rewards:
                count, mean = self._means.get(vector, (0, 0.0))
                # In this form the mean of equal rewards is that reward, to the last bit.
                self._means[vector] = count + 1, mean + (rewards[vector] - mean) / (count + 1)

    def winner(self) -> tuple[Vector, float, float]:
        """The winner, its mean reward, and the incumbent's over the same batches (at least one).

        The best of the candidates that were in every batch wins if its mean is at least the incumbent's.
        """
        before = self._means[self.incumbent][1]
        means = {v: self._means[v][1] for v in self.candidates if self._means.get(v, (0,))[0] == self.batches}
        best = max(means, key=means.__getitem__, default=None)
        if best is None or means[best] < before:
            return self.incumbent, before, before
        return best, means[best], before

    def state_dict(self) -> dict[str, Any]:
        """Vectors, counts and means."""
        return {
            "incumbent": list(self.incumbent),
            "candidates": [list(vector) for vector in self.candidates],
            "lots": self.batches,
            "means": [[list(vector), count, mean] for vector, (count, mean) in self._means.items()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> AcceptTest:
        """Go on where ``state`` was taken."""
        test = cls(tuple(state["incumbent"]), [tuple(vector) for vector in state["candidates"]])
        test.batches = state["lots"]
        test._means = {tuple(vector): (count, mean) for vector, count, mean in state["means"]}
        return test
