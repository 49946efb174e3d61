"""The results that a strategy has observed: the mean reward of each vector, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from narfx.errors import RunError
from narfx.search.strategy import Evaluated, Proposal, Result
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["History"]

_CAPACITY = 10_000


class History:
    """Count and mean of the rewards of each vector; when it is full, the worse half is forgotten.

    ``noisy`` says whether a vector that was evaluated again ever earned another reward.
    """

    def __init__(self, space: SearchSpace, capacity: int = _CAPACITY) -> None:
        self._space, self._capacity = space, capacity
        self._observed: dict[Vector, tuple[int, float]] = {}
        self.noisy = False

    def __contains__(self, vector: Vector) -> bool:
        return vector in self._observed

    def __len__(self) -> int:
        return len(self._observed)

    def add(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> tuple[list[Vector], list[float]]:
        """Take in one batch of proposals, all of it or nothing.

        Returns:
            The vectors, checked, and their rewards.

        Raises:
            UsageError: A vector is not legal in the space.
            RunError: A reward is not a finite number: nothing can be learned from it.
            ValueError: There are more proposals than results, or fewer.
        """
        observed = [
            (self._space.validate(proposal.vector), _finite(proposal.vector, result.reward))
            for proposal, result in zip(proposals, results, strict=True)
        ]
        for vector, reward in observed:
            count, mean = self._observed.get(vector, (0, reward))
            self.noisy |= mean != reward
            self._observed[vector] = count + 1, mean + (reward - mean) / (count + 1)
        if len(self._observed) > self._capacity:
            kept = set(self._ranked()[: self._capacity // 2])
            self._observed = {vector: entry for vector, entry in self._observed.items() if vector in kept}
        return [vector for vector, _ in observed], [reward for _, reward in observed]

    def best(self, n: int) -> list[Vector]:
        """The ``n`` vectors of highest mean reward that meet the budget, the best first, the earlier first in a tie."""
        found: list[Vector] = []
        for vector in self._ranked():
            if len(found) == n:
                break
            if self._space.feasible(vector):
                found.append(vector)
        return found

    def archive(self) -> list[Evaluated]:
        """All vectors in memory with their mean rewards and costs, in the order of their first evaluations."""
        return [
            Evaluated(vector, Result(mean, self._space.cost(vector)), count)
            for vector, (count, mean) in self._observed.items()
        ]

    def _ranked(self) -> list[Vector]:
        return sorted(self._observed, key=lambda vector: -self._observed[vector][1])

    def state_dict(self) -> dict[str, Any]:
        """Lists of vectors, counts and means, and ``noisy``."""
        return {
            "vectors": [list(vector) for vector in self._observed],
            "counts": [count for count, _ in self._observed.values()],
            "means": [mean for _, mean in self._observed.values()],
            "noisy": self.noisy,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.noisy = state["noisy"]
        entries = zip(state["counts"], state["means"], strict=True)
        self._observed = dict(zip(map(tuple, state["vectors"]), entries, strict=True))


def _finite(vector: Vector, reward: float) -> float:
    if not math.isfinite(reward):
        raise RunError(
            f"the reward of {list(vector)} is {reward}: a strategy learns from finite rewards only; correct the "
            "evaluation that returned it",
            where="reward",
            kind="reward_not_finite",
        )
    return float(reward)
