"""Score every replacement once, and let an integer program choose.

LANA (Molchanov et al., arXiv 2107.10624, section 3.2): what an architecture loses is taken to be the sum of what each
of its replacements loses alone; the least sum under the budget is a knapsack problem, solved exactly. Several
solutions that differ are measured as they are, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import Any, Literal

from narfx.errors import NothingToRefineError
from narfx.search.measuring import Judge, Judged
from narfx.search.registry import register_strategy
from narfx.search.strategy import Evaluated, Result
from narfx.space.prediction import prediction_quality
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler, sample_window
from narfx.space.scores import ScoreTable
from narfx.space.solver import best_vectors
from narfx.space.space import SearchSpace
from narfx.support.seeds import numpy_generator

__all__ = ["Solve"]

By = Literal["divergence", "loss"]
_WINDOW = 0.03


class Solve:
    """Scores of single replacements, then the best vectors by their sum.

    The first round replaces one choice of the base; each further one replaces one choice of the best vector so far
    (a greedy correction), and solves again.

    Args:
        space: The search space.
        seed: Decides the random vectors.
        by: What is added up: the rise of the ``loss``, or the ``divergence`` from the base's outputs.
        count: How many solutions a round measures.
        shared: The share of slots in which two solutions may agree; LANA takes 0.7.
        check: How many random vectors tell how good the prediction is; their cost is at most 3 % below the budget.
    """

    def __init__(
        self, space: SearchSpace, *, seed: int = 0, by: By = "loss", count: int = 10, shared: float = 0.8,
        check: int = 40,
    ) -> None:  # fmt: skip
        if by not in ("divergence", "loss"):
            raise ValueError(f"by is divergence or loss, not {by!r}")
        if count < 1 or check < 2 or not 0 < shared <= 1:
            raise ValueError("count is at least 1, check at least 2, and shared above 0 and at most 1")
        self._space, self._seed, self._by = space, seed, by
        self._count, self._check = count, check
        self._most_shared = min(max(int(shared * len(space)), 0), len(space) - 1)
        self._judged: dict[Vector, Judged] = {}
        self._table: ScoreTable | None = None
        self._dropped: dict[int, list[int]] = {}
        self._rounds = 0
        self._prediction: dict[str, Any] = {}

    @property
    def space(self) -> SearchSpace:
        """The space without the choices that gave NaN."""
        kept = {i: [k for k in self._space.slots[i].legal if k not in gone] for i, gone in self._dropped.items()}
        return self._space.restrict(kept)

    def measure(self, judge: Judge) -> dict[str, Any]:
        """One round.

        Raises:
            NothingToRefineError: Each replacement at a slot gives NaN, and the base is not legal there.
            InfeasibleBudgetError: What is left cannot meet the budget.
        """
        center = self._space.start if self._table is None else self._ranked()[0]
        self._score(judge, center)
        solutions = self._solutions()
        self._remember(solutions, judge(solutions, "solutions"))
        self._prediction = self._test(judge)
        if not self._ranked():
            raise NothingToRefineError(
                "every architecture measured within the budget gives NaN: lower --distil-lr", kind="all_nan"
            )
        self._rounds += 1
        best = self._ranked()[0]
        return {
            "round": self._rounds,
            "around": list(center),
            "base": dict(judge.base),
            "prediction": self._prediction,
            "solutions": [list(vector) for vector in solutions],
            "best": {
                "vector": list(best),
                "loss": self._judged[best].loss,
                "divergence": self._judged[best].divergence,
            },
            "not_offered": [self._name(i, k) for i, gone in self._dropped.items() for k in gone],
        }

    def _score(self, judge: Judge, center: Vector) -> None:
        """Measure each single replacement in ``center``; a choice that gives NaN is offered no more."""
        space = self.space
        pairs = [(i, k) for i, slot in enumerate(space.slots) for k in slot.legal if k != center[i]]
        vectors = [_replaced(center, i, k) for i, k in pairs]
        own, *found = judge([center, *vectors], "single replacements")
        self._remember([center, *vectors], [own, *found])
        for (i, k), judged in zip(pairs, found, strict=True):
            if not judged.finite:
                self._dropped.setdefault(i, []).append(k)
        if any(len(gone) == len(self._space.slots[i].legal) for i, gone in self._dropped.items()):
            raise NothingToRefineError(
                "every choice of one slot gives NaN: check the weights of the base, or lower --distil-lr",
                kind="all_nan",
            )
        known = {pair: judged for pair, judged in zip(pairs, found, strict=True) if judged.finite}
        known |= dict.fromkeys(enumerate(center), own)
        measures = {
            name: (
                {pair: getattr(judged, name) - getattr(own, name) for pair, judged in known.items()},
                {pair: getattr(judged, f"{name}_error") for pair, judged in known.items()},
            )
            for name in ("loss", "divergence", "mistakes")
        }
        self._table = ScoreTable.of(
            self.space,
            measures[self._by][0],
            measured=_MEASURED[self._by],
            images=judge.images,
            seed=self._seed,
            around=center,
            center={
                "loss": judge.base["loss"] + own.loss,
                "accuracy": judge.base["accuracy"] - own.mistakes,
                "divergence": own.divergence,
            },
            measures=measures,
        )

    def _solutions(self) -> list[Vector]:
        """The best vector and those that differ from it, then the next best ones where these are too few."""
        assert self._table is not None
        apart = best_vectors(self.space, self._table.scores, self._count, most_shared=self._most_shared)
        if len(apart) < self._count:
            near = best_vectors(self.space, self._table.scores, self._count)
            apart += [vector for vector in near if vector not in apart][: self._count - len(apart)]
        return apart

    def _test(self, judge: Judge) -> dict[str, Any]:
        """Predict random vectors of equal cost, and compare with what they lose."""
        assert self._table is not None
        drawn = self._random_vectors()
        found = judge(drawn, "random vectors")
        self._remember(drawn, found)
        start = getattr(self._judged[self._table.around or self._space.base], self._by)
        return prediction_quality(
            [self._table.predict(vector) for vector in drawn], [getattr(judged, self._by) - start for judged in found]
        )

    def _random_vectors(self) -> list[Vector]:
        """Vectors at the upper end of the budget, uniform there; others that meet it where these are too few."""
        space, rng = self.space, numpy_generator(self._seed, "check", self._rounds)
        drawn: dict[Vector, None] = {}
        for metric, bound in list(space.budget.bounds.items())[:1]:
            window = sample_window(space, self._check, (1 - _WINDOW) * bound, bound, rng, metric)
            drawn |= dict.fromkeys(filter(space.feasible, window))
        sampler = FeasibleSampler(space)
        drawn |= dict.fromkeys(sampler.draw(rng) for _ in range(self._check - len(drawn)))
        return list(drawn)

    def _remember(self, vectors: Iterable[Vector], judged: Iterable[Judged]) -> None:
        self._judged |= {v: j for v, j in zip(vectors, judged, strict=True) if j.finite}

    def _ranked(self) -> list[Vector]:
        """All measured vectors that meet the budget, the least loss or divergence first."""
        within = [vector for vector in self._judged if self._space.feasible(vector)]
        return sorted(within, key=lambda vector: (getattr(self._judged[vector], self._by), vector))

    def _name(self, slot: int, choice: int) -> str:
        return f"{self._space.slots[slot].choices[choice]} at {self._space.slots[slot].name}"

    def scores(self) -> ScoreTable | None:
        """The table of the last round."""
        return self._table

    @property
    def prediction(self) -> Mapping[str, Any]:
        """See :func:`narfx.space.prediction.prediction_quality`, of the last round's scores."""
        return {"by": self._by, **self._prediction}

    def finalists(self, n: int) -> list[Vector]:
        """The measured vectors of least loss or divergence that meet the budget."""
        return self._ranked()[:n]

    def archive(self) -> list[Evaluated]:
        """All measured vectors; the reward is the loss or divergence with its sign changed."""
        return [
            Evaluated(vector, Result(-getattr(judged, self._by), self._space.cost(vector)))
            for vector, judged in self._judged.items()
        ]

    def state_dict(self) -> dict[str, Any]:
        """What was measured, the table of scores, and the choices that are not offered."""
        return {
            "judged": [[list(v), *astuple(j)] for v, j in self._judged.items()],
            "prediction": self._prediction,
            "table": None if self._table is None else self._table.model_dump(mode="json"),
            "dropped": [[slot, list(gone)] for slot, gone in self._dropped.items()],
            "rounds": self._rounds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._judged = {tuple(vector): Judged(*values) for vector, *values in state["judged"]}
        self._table = None if state["table"] is None else ScoreTable.model_validate(state["table"])
        self._dropped = {slot: list(gone) for slot, gone in state["dropped"]}
        self._rounds = state["rounds"]
        self._prediction = state["prediction"]


_MEASURED = {
    "divergence": "the mean divergence of the outputs from the base's",
    "loss": "the rise of the mean loss",
}


def _replaced(vector: Vector, slot: int, choice: int) -> Vector:
    return (*vector[:slot], choice, *vector[slot + 1 :])


register_strategy("solve", Solve)
