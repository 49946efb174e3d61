"""Evaluations of vectors on the whole validation part, each done once in a run, whatever stops it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import recalibrate
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.search.judgement import RIGHT, packed
from narfx.space.records import Vector
from narfx.support.collectives import Crew
from narfx.support.seals import read_sealed, write_sealed
from narfx.support.text import count
from narfx.tasks.task import Task

__all__ = ["EVALUATIONS", "Evaluations", "evaluate_vector", "lowered"]

EVALUATIONS = "evaluations.json"


def lowered(net: Supernet, vector: Vector, task: Task) -> Any:
    """The network of one vector with BatchNorm recalibrated on training images, in evaluation mode.

    The shared weights and statistics stay as they are. Statistics are computed in float32, as the network is exported.
    """
    network = lower(net, vector)
    with task.precision.exact.autocast():
        recalibrate(network, task.calibration_batches())
    return network.eval()


def evaluate_vector(net: Supernet, vector: Vector, task: Task, *, judged: bool = False) -> dict[str, Any]:
    """Accuracy of one sub-network on the whole validation part, its BatchNorm recalibrated on training images.

    The record describes the vector as an ``arch.json`` does: ``space.read`` gives it back. With ``judged`` it also
    holds which test images are classified right (:func:`~narfx.search.judgement.packed`). The loss of a network that
    gives no numbers is ``None``.
    """
    network = lowered(net, vector, task)
    found = task.evaluate(network, "val")
    right = {RIGHT: packed(task.outcomes(network, "test")[1].numpy())} if judged else {}
    return {
        **net.space.describe(vector),
        "accuracy": found["accuracy"],
        "loss": found["loss"] if math.isfinite(found["loss"]) else None,
        **net.space.cost(vector),
        **right,
    }


class Evaluations:
    """The evaluations of a run: each is written into it as soon as it is done, and never repeated.

    Of several ranks, rank 0 asks for evaluations, and the others follow its ``crew``.

    Args:
        net: The supernet with the weights that the search left.
        task: What the networks are evaluated on.
        folder: The run.
        reporter: Receives progress.

    Raises:
        UsageError: The file of earlier evaluations is damaged.
    """

    def __init__(self, net: Supernet, task: Task, folder: RunFolder, reporter: Reporter) -> None:
        self.net, self.task, self._reporter, self._ranks = net, task, reporter, folder.ranks
        self._path = folder.path / EVALUATIONS
        self.crew = Crew(folder.ranks, self._evaluate)
        cure = "delete it to evaluate again"
        known = self._ranks.first and self._path.exists()
        records = read_sealed(self._path, cure)["evaluations"] if known else []
        self._known: dict[Vector, dict[str, Any]] = {net.space.read(record): record for record in records}

    def __call__(self, vectors: Iterable[Vector], label: str, *, judged: bool = False) -> list[dict[str, Any]]:
        """The records of these vectors, as :func:`evaluate_vector` makes them; ``label`` says what they are."""
        vectors, known, size = list(vectors), self._known, self._ranks.size
        lots = [vectors[start : start + size] for start in range(0, len(vectors), size)]
        for lot in self._reporter.track(lots, len(lots), label):
            new = list(dict.fromkeys(v for v in lot if v not in known or (judged and RIGHT not in known[v])))
            if new:
                known |= dict(zip(new, self.crew([[list(vector), judged] for vector in new]), strict=True))
                write_sealed(self._path, {"evaluations": list(known.values())})
        judges = 0 if self.task.data.test is None else len(self.task.data.test)
        more = f" and {judges} that judge" if judged else ""
        images = f"{count(len(self.task.data.val), 'validation image')}{more}"
        self._reporter.say(f"{label}: {len(vectors)} evaluated on {images}")
        return [known[vector] for vector in vectors]

    def _evaluate(self, item: tuple[Vector, bool]) -> dict[str, Any]:
        vector, judged = item
        return evaluate_vector(self.net, tuple(vector), self.task, judged=judged)
