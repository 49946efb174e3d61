"""The end of a search: finalists are evaluated, the best is kept and compared with other vectors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from narfx.latency.whole import WholeLatency
from narfx.search.evaluations import Evaluations
from narfx.search.judgement import RIGHT, Judgement, most_macs
from narfx.search.whole_latency import InTime, keep_in_time
from narfx.space.records import Vector
from narfx.space.sampling import equal_costs, sample_equal
from narfx.space.space import SearchSpace
from narfx.support.seeds import numpy_generator
from narfx.tasks.task import Task

__all__ = ["Outcome", "conclude"]


@dataclass(frozen=True)
class Outcome:
    """What was kept, and all that was evaluated: records of vector, accuracy and costs.

    The accuracy of the ``base`` is ``None`` where it never had weights to be judged by. ``dearest`` is the vector that
    MACs alone pick, ``in_time`` what was timed whole for a budget on latency.
    """

    best: dict[str, Any]
    base: dict[str, Any]
    finalists: list[dict[str, Any]]
    randoms: list[dict[str, Any]]
    dearest: dict[str, Any]
    judgement: Judgement
    in_time: InTime | None = None

    @property
    def random_mean(self) -> float | None:
        """The mean validation accuracy of the random vectors, where there are any."""
        return statistics.fmean(r["accuracy"] for r in self.randoms) if self.randoms else None

    @property
    def random_best(self) -> float | None:
        """The best validation accuracy of the random vectors, where there are any."""
        return max((r["accuracy"] for r in self.randoms), default=None)


def conclude(
    evaluate: Evaluations,
    space: SearchSpace,
    finalists: list[Vector],
    *,
    base: dict[str, Any] | None,
    randoms: int,
    seed: int,
    time: Callable[[Vector], WholeLatency] | None = None,
) -> Outcome:
    """Evaluate the finalists, keep the most accurate (at equal accuracy the cheapest), and judge it.

    It is judged on the task's test images, which chose nothing, beside ``randoms`` vectors of equal cost
    (:func:`~narfx.space.sampling.sample_equal`) and beside the vector that MACs alone pick, all evaluated the same way.
    ``base`` is the evaluation of the base, where it had weights to be judged by. With ``time`` finalists are timed
    whole, and what is kept is the most accurate that keeps the budget on latency
    (:func:`~narfx.search.whole_latency.keep_in_time`).
    """
    task, images = evaluate.evaluator.task, evaluate.evaluator.effort.test
    judges = images > 0
    equal = equal_costs(space)
    tried = evaluate(finalists, "finalists")
    ranked = sorted(tried, key=lambda record: (-record["accuracy"], *(record[m] for m in equal), space.read(record)))
    in_time = None if time is None else keep_in_time(ranked, space, time)
    best = ranked[0] if in_time is None else in_time.kept[0]
    draw = partial(numpy_generator, seed)
    drawn = sample_equal(space, space.read(best), randoms, draw("random vectors"))
    beside = evaluate(drawn, "random vectors", judged=judges)
    kept, dearest = evaluate(
        [space.read(best), most_macs(space, draw("most MACs"))], "kept vector, MACs alone", judged=judges
    )
    judgement = Judgement.of(kept, beside, dearest, costs=equal, images=images, part=_part(task))
    nothing = {**space.describe(space.base), "accuracy": None, "loss": None, **space.cost(space.base)}
    finalist, random = ([_plain(record) for record in records] for records in (tried, beside))
    return Outcome(_plain(kept), base or nothing, finalist, random, _plain(dearest), judgement, in_time)


def _part(task: Task) -> str:
    return "validation images set apart" if task.data.test_from_val else "test part"


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != RIGHT}
