"""The end of a search: finalists are evaluated, the best is kept and compared with other vectors."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import recalibrate
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.search.judgement import RIGHT, Judgement, most_macs, packed
from narfx.space.records import Vector
from narfx.space.sampling import equal_costs, sample_equal
from narfx.space.space import SearchSpace
from narfx.support.seals import read_sealed, write_sealed
from narfx.support.seeds import numpy_generator
from narfx.tasks.task import Task

__all__ = ["EVALUATIONS", "Outcome", "conclude", "evaluate_vector"]

EVALUATIONS = "evaluations.json"


@dataclass(frozen=True)
class Outcome:
    """What was kept, and all that was evaluated: records of vector, accuracy and costs.

    The accuracy of the ``base`` is ``None`` where it never had weights to be judged by. ``dearest`` is the vector that
    MACs alone pick.
    """

    best: dict[str, Any]
    base: dict[str, Any]
    finalists: list[dict[str, Any]]
    randoms: list[dict[str, Any]]
    dearest: dict[str, Any]
    judgement: Judgement

    @property
    def random_mean(self) -> float | None:
        """The mean validation accuracy of the random vectors, where there are any."""
        return statistics.fmean(r["accuracy"] for r in self.randoms) if self.randoms else None

    @property
    def random_best(self) -> float | None:
        """The best validation accuracy of the random vectors, where there are any."""
        return max((r["accuracy"] for r in self.randoms), default=None)


def evaluate_vector(net: Supernet, vector: Vector, task: Task, *, judged: bool = False) -> dict[str, Any]:
    """Accuracy of one sub-network on the whole validation part, its BatchNorm recalibrated on training images.

    The record describes the vector as an ``arch.json`` does: ``space.read`` gives it back. With ``judged`` it also
    holds which test images are classified right (:func:`~narfx.search.judgement.packed`).
    It works on a lowered copy: the shared weights and statistics stay as they are.
    """
    network = lower(net, vector)
    with task.precision.autocast():
        recalibrate(network, task.calibration_batches())
    network.eval()
    found = task.evaluate(network, "val")
    right = {RIGHT: packed(task.outcomes(network, "test")[1].numpy())} if judged else {}
    return {
        **net.space.describe(vector),
        "accuracy": found["accuracy"],
        "loss": found["loss"],
        **net.space.cost(vector),
        **right,
    }


def conclude(
    net: Supernet,
    space: SearchSpace,
    task: Task,
    finalists: list[Vector],
    *,
    base: dict[str, Any] | None,
    randoms: int,
    seed: int,
    folder: RunFolder,
    reporter: Reporter,
) -> Outcome:
    """Evaluate the finalists, keep the most accurate (at equal accuracy the cheapest), and judge it.

    It is judged on the task's test images, which chose nothing, beside ``randoms`` vectors of equal cost
    (:func:`~narfx.space.sampling.sample_equal`) and beside the vector that MACs alone pick, all evaluated the same way.
    ``base`` is the evaluation of the base, where it had weights to be judged by. Each evaluation is written into the
    run as soon as it is done, and is not repeated after an interruption.
    """
    path = folder.path / EVALUATIONS
    records = read_sealed(path, "delete it to evaluate again")["evaluations"] if path.exists() else []
    known = {space.read(record): record for record in records}
    judges = task.data.test is not None

    def evaluate(vectors: Iterable[Vector], label: str, *, judged: bool = False) -> list[dict[str, Any]]:
        vectors = list(vectors)
        for vector in reporter.track(vectors, len(vectors), label):
            if vector not in known or (judged and RIGHT not in known[vector]):
                known[vector] = evaluate_vector(net, vector, task, judged=judged)
                write_sealed(path, {"evaluations": list(known.values())})
        images = f"{len(task.data.val)} validation images" + (f" and {_judges(task)} that judge" if judged else "")
        reporter.say(f"{label}: {len(vectors)} evaluated on {images}")
        return [known[vector] for vector in vectors]

    equal = equal_costs(space)
    tried = evaluate(finalists, "finalists")
    best = min(tried, key=lambda record: (-record["accuracy"], *(record[m] for m in equal), space.read(record)))
    draw = partial(numpy_generator, seed)
    drawn = sample_equal(space, space.read(best), randoms, draw("random vectors"))
    beside = evaluate(drawn, "random vectors", judged=judges)
    kept, dearest = evaluate(
        [space.read(best), most_macs(space, draw("most MACs"))], "kept vector, MACs alone", judged=judges
    )
    judgement = Judgement.of(kept, beside, dearest, costs=equal, images=_judges(task), part=_part(task))
    nothing = {**space.describe(space.base), "accuracy": None, "loss": None, **space.cost(space.base)}
    finalist, random = ([_plain(record) for record in records] for records in (tried, beside))
    return Outcome(_plain(kept), base or nothing, finalist, random, _plain(dearest), judgement)


def _judges(task: Task) -> int:
    return 0 if task.data.test is None else len(task.data.test)


def _part(task: Task) -> str:
    return "validation images set apart" if task.data.test_from_val else "test part"


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != RIGHT}
