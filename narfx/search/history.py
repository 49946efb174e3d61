"""What a strategy was told: the mean reward of each vector, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from narfx.errors import RunError
from narfx.search.strategy import Proposal, Result
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["History"]

_CAPACITY = 10_000


class History:
    """Count and mean of the rewards of each vector; when it is full, the worse half is forgotten.

    ``noisy`` says whether a vector told again ever earned another reward.
    """

    def __init__(self, space: SearchSpace, capacity: int = _CAPACITY) -> None:
        self._space, self._capacity = space, capacity
        self._told: dict[Vector, tuple[int, float]] = {}
        self.noisy = False

    def __contains__(self, vector: Vector) -> bool:
        return vector in self._told

    def __len__(self) -> int:
        return len(self._told)

    def add(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> tuple[list[Vector], list[float]]:
        """Take in one lot, all of it or nothing.

        Returns:
            The vectors, checked, and their rewards.

        Raises:
            UsageError: A vector is not legal in the space.
            RunError: A reward is not a finite number: nothing can be learned from it.
            ValueError: There are more proposals than results, or fewer.
        """
        told = [
            (self._space.validate(proposal.vector), _finite(proposal.vector, result.reward))
            for proposal, result in zip(proposals, results, strict=True)
        ]
        for vector, reward in told:
            count, mean = self._told.get(vector, (0, reward))
            self.noisy |= mean != reward
            self._told[vector] = count + 1, mean + (reward - mean) / (count + 1)
        if len(self._told) > self._capacity:
            kept = set(self._ranked()[: self._capacity // 2])
            self._told = {vector: entry for vector, entry in self._told.items() if vector in kept}
        return [vector for vector, _ in told], [reward for _, reward in told]

    def best(self, n: int) -> list[Vector]:
        """The ``n`` vectors of highest mean reward that meet the budget, the best first, the earlier first in a tie."""
        found: list[Vector] = []
        for vector in self._ranked():
            if len(found) == n:
                break
            if self._space.feasible(vector):
                found.append(vector)
        return found

    def _ranked(self) -> list[Vector]:
        return sorted(self._told, key=lambda vector: -self._told[vector][1])

    def state_dict(self) -> dict[str, Any]:
        """Lists of vectors, counts and means, and ``noisy``."""
        return {
            "vectors": [list(vector) for vector in self._told],
            "counts": [count for count, _ in self._told.values()],
            "means": [mean for _, mean in self._told.values()],
            "noisy": self.noisy,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.noisy = state["noisy"]
        entries = zip(state["counts"], state["means"], strict=True)
        self._told = dict(zip(map(tuple, state["vectors"]), entries, strict=True))


def _finite(vector: Vector, reward: float) -> float:
    if not math.isfinite(reward):
        raise RunError(
            f"the reward of {list(vector)} is {reward}: a strategy learns from finite rewards only, so mend the "
            "evaluation that gave it",
            where="reward",
            kind="reward_not_finite",
        )
    return float(reward)
