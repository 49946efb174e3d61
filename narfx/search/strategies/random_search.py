"""Random search: uniform over the vectors that meet the budget, none twice while there are others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from narfx.search.history import History
from narfx.search.registry import register_strategy
from narfx.search.strategy import Evaluated, Proposal, Result
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace

__all__ = ["RandomSearch"]

_TRIES = 50
_LISTED = 20_000


class RandomSearch:
    """Uniform draws without repetition, the baseline that every search has to beat.

    In a space of up to 20,000 legal vectors none is proposed twice before all have been; in a larger one only where
    the budget leaves so few that fifty draws in a row met none that is new.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        self._space = space
        self._rng = np.random.default_rng(seed)
        self._history = History(space)
        self._asked: dict[Vector, None] = {}

    def ask(self, n: int) -> list[Proposal]:
        """``n`` uniform draws."""
        # A sampler learns that a budget is tight, and a resumed strategy must not know less: a new one each time.
        draw = self._listed if self._space.size <= _LISTED else partial(FeasibleSampler(self._space).draw, self._rng)
        return [Proposal(self._new(draw)) for _ in range(n)]

    def _new(self, draw: Callable[[], Vector]) -> Vector:
        for _ in range(_TRIES):
            vector = draw()
            if vector not in self._asked:
                break
        self._asked[vector] = None
        return vector

    @cached_property
    def _feasible(self) -> list[Vector]:
        everything = itertools.product(*(slot.legal for slot in self._space.slots))
        return [vector for vector in everything if self._space.feasible(vector)]

    def _listed(self) -> Vector:
        left = self._feasible
        if len(left) // 2 < len(self._asked) < len(left):
            left = [vector for vector in left if vector not in self._asked]
        return left[int(self._rng.integers(len(left)))]

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """Remember the rewards; returns ``reward``, the batch's mean."""
        _, rewards = self._history.add(proposals, results)
        return {"reward": sum(rewards) / len(rewards)} if rewards else {}

    def finalists(self, n: int) -> list[Vector]:
        """The evaluated vectors of highest mean reward, then those proposed and never evaluated."""
        return list(dict.fromkeys([*self._history.best(n), *self._asked]))[:n]

    def archive(self) -> list[Evaluated]:
        """All vectors that were evaluated, as far as the history holds them."""
        return self._history.archive()

    def state_dict(self) -> dict[str, Any]:
        """The generator, what was proposed and what was observed."""
        return {
            "generator": self._rng.bit_generator.state,
            "asked": [list(vector) for vector in self._asked],
            "record": self._history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._rng.bit_generator.state = state["generator"]
        self._asked = dict.fromkeys(map(tuple, state["asked"]))
        self._history.load_state_dict(state["record"])


register_strategy("random", RandomSearch)
