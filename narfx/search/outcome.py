"""The end of a search: finalists evaluated properly, the best kept and compared with random vectors of equal cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import recalibrate
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.space.records import Vector
from narfx.space.sampling import sample_window
from narfx.space.space import SearchSpace
from narfx.support.files import read_json, write_json
from narfx.support.seeds import numpy_generator
from narfx.tasks.task import Task

__all__ = ["EVALUATIONS", "Outcome", "conclude", "evaluate_vector", "verdict"]

EVALUATIONS = "evaluations.json"
WINDOW = 0.02
_EQUAL = {"macs": "MACs", "latency": "predicted latency"}


@dataclass(frozen=True)
class Outcome:
    """What was kept, and all that was evaluated: records of vector, accuracy and costs."""

    best: dict[str, Any]
    base: dict[str, Any]
    finalists: list[dict[str, Any]]
    randoms: list[dict[str, Any]]
    metric: str = "macs"

    @property
    def random_mean(self) -> float | None:
        """The mean accuracy of the random vectors, where there are any."""
        return statistics.fmean(r["accuracy"] for r in self.randoms) if self.randoms else None

    @property
    def random_best(self) -> float | None:
        """The best accuracy of the random vectors, where there are any."""
        return max((r["accuracy"] for r in self.randoms), default=None)


def evaluate_vector(net: Supernet, vector: Vector, task: Task) -> dict[str, Any]:
    """Accuracy of one sub-network on the whole validation part, its BatchNorm recalibrated on training images.

    The record describes the vector as an ``arch.json`` does: ``space.read`` gives it back.
    It works on a lowered copy: the shared weights and statistics stay as they are.
    """
    network = lower(net, vector)
    with task.precision.autocast():
        recalibrate(network, task.calibration_batches())
    network.eval()
    found = task.evaluate(network, "val")
    return {
        **net.space.describe(vector),
        "accuracy": found["accuracy"],
        "loss": found["loss"],
        **net.space.cost(vector),
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
    """Evaluate the finalists, keep the most accurate (at equal accuracy the cheapest), and its comparison.

    The comparison is ``randoms`` vectors, uniform over all whose cost lies within 2 % below the kept one's (every one
    of them where there are fewer), evaluated the same way. The cost is MACs, or the predicted latency where that alone
    is bounded by the space's budget. ``base`` is the base's evaluation where it is known
    already. Each evaluation is written into the run as soon as it is done, and is not repeated after an interruption.
    """
    path = folder.path / EVALUATIONS
    known = {space.read(r): r for r in read_json(path)} if path.exists() else {}

    def evaluate(vectors: Iterable[Vector], label: str) -> list[dict[str, Any]]:
        vectors = list(vectors)
        for vector in reporter.track(vectors, len(vectors), label):
            if vector not in known:
                known[vector] = evaluate_vector(net, vector, task)
                write_json(path, list(known.values()))
        reporter.say(f"{label}: {len(vectors)} evaluated on {len(task.data.val)} validation images")
        return [known[vector] for vector in vectors]

    tried = evaluate(finalists, "finalists")
    metric = "latency" if tuple(space.budget.bounds) == ("latency",) else "macs"
    best = min(tried, key=lambda record: (-record["accuracy"], record[metric], space.read(record)))
    drawn = sample_window(
        space,
        randoms,
        (1 - WINDOW) * best[metric],
        best[metric],
        numpy_generator(seed, "random vectors"),
        metric,
        exclude=frozenset({space.read(best)}),
    )
    beside = evaluate(drawn, "random vectors")
    return Outcome(best, base or evaluate([space.base], "base")[0], tried, beside, metric)


def verdict(outcome: Outcome) -> str:
    """One sentence on whether the search did better than chance at equal cost."""
    best, mean, top = outcome.best["accuracy"], outcome.random_mean, outcome.random_best
    if mean is None or top is None:
        return "no other vector has a cost within 2 % below: there is no random vector to compare with"
    n = len(outcome.randoms)
    compared = (
        f"{best:.4f} against {n} random vectors of equal {_EQUAL[outcome.metric]}: mean {mean:.4f}, best {top:.4f}; "
        "the kept one was chosen on the same images, so train both with narfx compare"
    )
    if best > top:
        return f"the search beat random vectors of equal cost on shared weights ({compared})"
    if best > mean:
        return f"the search did NOT beat the best of the random vectors of equal cost, only their mean ({compared})"
    return f"the search did NOT beat random vectors of equal cost ({compared})"
