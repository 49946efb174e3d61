"""How many images the evaluations at the end of a search take: a share of the search's own work at most."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from narfx.search.config import MIXTURES, SearchConfig
from narfx.space.space import SearchSpace
from narfx.tasks.task import Task

__all__ = ["MEASURED", "SOLVED_BUDGETS", "Effort", "for_front", "passes_of_evaluations", "passes_of_search"]

MEASURED = 51
"""The base, the solutions and the random vectors that ``solve`` measures in a round, beside single replacements."""
SOLVED_BUDGETS = 8
"""How many budgets over the range of each cost are solved by saved scores, for a front."""
_STEP = 3  # forward passes that take as long as a step of training
_LEAST = 128


@dataclass(frozen=True)
class Effort:
    """Images of one evaluation: for BatchNorm's statistics, to choose by (``val``) and to judge by (``test``)."""

    calibration: int
    val: int
    test: int

    @classmethod
    def whole(cls, task: Task) -> Effort:
        """All validation and test images, and as many for statistics as the task takes."""
        test = 0 if task.data.test is None else len(task.data.test)
        return cls(task.calibration_images, len(task.data.val), test)

    @classmethod
    def most(cls, config: SearchConfig, task: Task) -> Effort:
        """That of a long search. The base with its own weights always has it, because a search may be extended."""
        whole = cls.whole(task)
        return cls(min(config.calibration_images, len(task.data.train)), whole.val, whole.test)

    @classmethod
    def of(cls, config: SearchConfig, task: Task, space: SearchSpace) -> Effort:
        """The most images with which the evaluations stay within ``config.evaluation_share`` of all passes.

        No part gives more than a common bound, which is at least 128. It depends on numbers of images alone, not on a
        clock.
        """
        most, share = cls.most(config, task), config.evaluation_share
        allowed = share * passes_of_search(config, task, space)
        bounds = range(_LEAST, max(most.calibration, most.val, most.test, _LEAST) + 1)
        fitting = bisect_right(
            bounds, allowed, key=lambda bound: (1 - share) * passes_of_evaluations(config, task, most.within(bound))
        )
        return most.within(bounds[max(fitting - 1, 0)])

    def within(self, bound: int) -> Effort:
        """At most so many images of each part."""
        return Effort(min(self.calibration, bound), min(self.val, bound), min(self.test, bound))

    def images(self, part: str) -> int:
        """The images of a part, ``val`` or ``test``."""
        return self.val if part == "val" else self.test

    def calibration_batches(self, size: int) -> int:
        """How many batches of this size the statistics are averaged over."""
        return max(self.calibration // size, 1)


def passes_of_search(config: SearchConfig, task: Task, space: SearchSpace) -> int:
    """Forward passes of one image that take as long as the epochs; what a mixture takes beyond one vector is left out.

    A step of training counts three, a vector as much as any other, and common beginnings are not taken off.
    """
    solves = config.strategy == "solve"
    epochs = config.pretrain_epochs if solves else config.epochs
    images = min(task.batch_size, len(task.data.train))
    training = _STEP * epochs * task.steps_per_epoch * images
    rounds = config.epochs - config.pretrain_epochs
    if solves:
        singles = sum(len(slot.legal) - 1 for slot in space.slots)
        return training + rounds * (singles + MEASURED) * min(config.score_images, len(task.data.train))
    rewards = 0 if config.strategy in MIXTURES else rounds * config.steps * config.proposals
    return training + rewards * min(config.reward_images, len(task.data.val))


def passes_of_evaluations(config: SearchConfig, task: Task, effort: Effort) -> int:
    """Forward passes of one image in the evaluations at the end, and in that of a base with weights of its own."""
    vectors, base = config.finalists + config.randoms + 1 + for_front(config), Effort.most(config, task)
    own = base.calibration + base.val if config.base_is_trained else 0
    return vectors * (effort.calibration + effort.val) + own + (config.randoms + 2) * effort.test


def for_front(config: SearchConfig) -> int:
    """How many vectors are evaluated for the front, at most."""
    solved = SOLVED_BUDGETS * len(config.front) if config.strategy == "solve" else 0
    return config.front_points + solved + 1 if config.front else 0
