"""The results that a strategy has observed: what each vector is worth, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from narfx.errors import RunError
from narfx.search.levels import levels
from narfx.search.strategy import Evaluated, Proposal, Result
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["History", "by_turns"]

_CAPACITY = 10_000
_REPEATED = 4


class History:
    """The rewards of each vector, batch by batch; of more than ``capacity`` vectors the worse half is forgotten.

    A vector is kept all the same if no cheaper one has a higher score, so that a front can be made of what is left.

    A vector's score is the mean of its rewards, each less the level of its batch (:mod:`narfx.search.levels`), so that
    rewards of different minibatches and epochs compare. As long as vectors evaluated again earn the same reward in
    another batch, there are no levels. ``noisy`` says whether one ever earned another reward.

    Costs that were told with a result go before the space's own, the latest before the earlier.
    """

    def __init__(self, space: SearchSpace, capacity: int = _CAPACITY) -> None:
        self._space, self._capacity = space, capacity
        self._batches: list[list[tuple[Vector, float]]] = []
        self._seen: dict[Vector, tuple[int, float]] = {}
        self._told: dict[Vector, dict[str, float]] = {}
        self._costs: dict[Vector, dict[str, float]] = {}
        self._scored: dict[Vector, float] | None = None
        self._repeated = False
        self.noisy = False

    def __contains__(self, vector: Vector) -> bool:
        return vector in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> tuple[list[Vector], list[float]]:
        """Take in one batch of proposals, all of it or nothing.

        Returns:
            The vectors, checked, and their rewards.

        Raises:
            UsageError: A vector is not legal in the space.
            RunError: A reward or a cost is not a finite number: nothing can be learned from it.
            ValueError: There are more proposals than results, or fewer.
        """
        observed = [
            (self._space.validate(proposal.vector), _finite(proposal.vector, result.reward, "reward"))
            for proposal, result in zip(proposals, results, strict=True)
        ]
        told = [
            {metric: _finite(vector, cost, metric) for metric, cost in result.costs.items()}
            for (vector, _), result in zip(observed, results, strict=True)
        ]
        self._repeated |= any(vector in self._seen for vector, _ in observed)
        for vector, reward in observed:
            count, first = self._seen.get(vector, (0, reward))
            self.noisy |= first != reward
            self._seen[vector] = count + 1, first
        for (vector, _), costs in zip(observed, told, strict=True):
            self._tell_costs(vector, costs)
        if observed:
            self._batches.append(observed)
            self._scored = None
        if len(self) > self._capacity or sum(map(len, self._batches)) > _REPEATED * self._capacity:
            self._forget()
        return [vector for vector, _ in observed], [reward for _, reward in observed]

    def best(self, n: int) -> list[Vector]:
        """The ``n`` vectors of highest score that meet the budget, the best first, the earlier first in a tie."""
        found: list[Vector] = []
        for vector in _ranked(self._scores()):
            if len(found) == n:
                break
            if self.feasible(vector):
                found.append(vector)
        return found

    @property
    def told_costs(self) -> Mapping[Vector, Mapping[str, float]]:
        """The costs that were told and are not the space's own."""
        return self._told

    def cost(self, vector: Vector) -> dict[str, float]:
        """The costs of a legal vector: as told, else the space's."""
        if vector not in self._seen:
            return self._space.cost(vector)
        if vector not in self._costs:
            self._costs[vector] = self._space.cost(vector) | self._told.get(vector, {})
        return dict(self._costs[vector])

    def feasible(self, vector: Vector) -> bool:
        """Whether a legal vector meets the budget, by these costs."""
        return self._space.budget.met_by(self.cost(vector))

    def _tell_costs(self, vector: Vector, costs: Mapping[str, float]) -> None:
        # Most often these are the space's own, which need not be kept.
        own = self._space.cost(vector) if costs else {}
        differ = self._told.pop(vector, {}) | dict(costs)
        differ = {metric: cost for metric, cost in differ.items() if own.get(metric) != cost}
        if differ:
            self._told[vector] = differ
        self._costs.pop(vector, None)

    def archive(self) -> list[Evaluated]:
        """All vectors in memory with their scores and costs, in the order of their first evaluations."""
        return [
            Evaluated(vector, Result(score, self.cost(vector)), self._seen[vector][0])
            for vector, score in self._scores().items()
        ]

    def _scores(self) -> dict[Vector, float]:
        """The score of each vector, in the order of first evaluations, computed once for each batch."""
        if self._scored is None:
            self._scored = self._compute_scores()
        return self._scored

    def _compute_scores(self) -> dict[Vector, float]:
        exact = self._repeated and not self.noisy
        found = [0.0] * len(self._batches) if exact else levels(self._space, self._batches)
        means: dict[Vector, tuple[int, float]] = {}
        for batch, level in zip(self._batches, found, strict=True):
            for vector, reward in batch:
                count, mean = means.get(vector, (0, 0.0))
                # In this form the mean of equal rewards is that reward, to the last bit.
                means[vector] = count + 1, mean + (reward - level - mean) / (count + 1)
        return {vector: mean for vector, (_, mean) in means.items()}

    def _forget(self) -> None:
        """Keep the better half, and the best for their costs, as one batch of scores, each vector once."""
        scores = self._scores()
        kept = set(_ranked(scores)[: self._capacity // 2]) | self._best_for_cost(scores)
        self._batches = [[(vector, score) for vector, score in scores.items() if vector in kept]]
        self._seen = {vector: entry for vector, entry in self._seen.items() if vector in kept}
        self._told = {vector: costs for vector, costs in self._told.items() if vector in kept}
        self._costs, self._scored = {}, None

    def _best_for_cost(self, scores: Mapping[Vector, float]) -> set[Vector]:
        """For each cost alone, the vectors of a higher score than all that cost less."""
        costs = {vector: self._space.cost(vector) for vector in scores}
        kept = set()
        for name in self._space.metrics:
            best = -math.inf
            for vector in sorted(scores, key=lambda vector: (costs[vector][name], -scores[vector])):
                if scores[vector] > best:
                    best = scores[vector]
                    kept.add(vector)
        return kept

    def state_dict(self) -> dict[str, Any]:
        """The batches, count and first reward of each vector, the costs that were told, and signs of noise."""
        return {
            "batches": [[[list(vector), reward] for vector, reward in batch] for batch in self._batches],
            "seen": [[list(vector), *entry] for vector, entry in self._seen.items()],
            "costs": [[list(vector), dict(costs)] for vector, costs in self._told.items()],
            "repeated": self._repeated,
            "noisy": self.noisy,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._batches = [[(tuple(vector), reward) for vector, reward in batch] for batch in state["batches"]]
        self._seen = {tuple(vector): (count, first) for vector, count, first in state["seen"]}
        self._told = {tuple(vector): dict(costs) for vector, costs in state.get("costs", ())}
        self._costs, self._scored = {}, None
        self._repeated, self.noisy = state["repeated"], state["noisy"]


def by_turns(n: int, *rankings: Sequence[Vector]) -> list[Vector]:
    """At most ``n`` distinct vectors: the first of each ranking, then the second of each, and so on."""
    order = (vector for turn in zip_longest(*rankings) for vector in turn if vector is not None)
    return list(dict.fromkeys(order))[:n]


def _ranked(scores: Mapping[Vector, float]) -> list[Vector]:
    return sorted(scores, key=lambda vector: -scores[vector])


def _finite(vector: Vector, value: float, name: str) -> float:
    if not math.isfinite(value):
        what = "rewards" if name == "reward" else "costs"
        raise RunError(
            f"the {name} of {list(vector)} is {value}: a strategy learns from finite {what} only; correct the "
            "evaluation that returned it",
            where=name,
            kind="reward_not_finite" if name == "reward" else "cost_not_finite",
        )
    return float(value)
