"""Evaluations of vectors on validation images, each done once in a run, whatever stops it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from narfx.compiler.calibration import Calibration
from narfx.compiler.lowering import lower
from narfx.compiler.prefixes import MEMORY
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import recalibrate
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter, Silent
from narfx.search.effort import Effort
from narfx.search.judgement import RIGHT, packed
from narfx.space.records import Vector
from narfx.support.collectives import Crew
from narfx.support.seals import read_sealed, write_sealed
from narfx.support.text import count
from narfx.tasks.task import Task

__all__ = ["EVALUATIONS", "Evaluations", "Evaluator", "evaluate_vector", "lowered"]

EVALUATIONS = "evaluations.json"
_LOT = 16
"""How many vectors a rank evaluates together; a run that is killed among them evaluates these again."""

Record = dict[str, Any]
Outcomes = tuple[Tensor, Tensor]


def lowered(net: Supernet, vector: Vector, task: Task, effort: Effort | None = None) -> fx.GraphModule:
    """The network of one vector with BatchNorm recalibrated on training images, in evaluation mode.

    The shared weights and statistics stay as they are. Statistics are computed in float32, as the network is exported.
    """
    network = lower(net, vector)
    images = (effort or Effort.whole(task)).calibration
    with task.precision.exact.autocast():
        recalibrate(network, task.calibration_batches(images))
    return network.eval()


def evaluate_vector(
    net: Supernet, vector: Vector, task: Task, effort: Effort | None = None, *, judged: bool = False
) -> Record:
    """Accuracy of one sub-network on validation images, its BatchNorm recalibrated on training images.

    The record describes the vector as an ``arch.json`` does: ``space.read`` gives it back. With ``judged`` it also
    holds which test images are classified right (:func:`~narfx.search.judgement.packed`). The loss of a network that
    gives no numbers is ``None``. Without an ``effort`` all images of the parts are taken.
    """
    return Evaluator(net, task, effort, memory=0)([vector], ("val", "test") if judged else ("val",))[0]


class Evaluator:
    """Evaluates vectors of a supernet; what they have in common is computed once, bit for bit as one by one.

    The weights and statistics of the supernet stay as they are, and must not change between two calls.

    Args:
        net: The supernet.
        task: What its networks are evaluated on.
        effort: How many images are taken.
        memory: How many bytes may be kept from one vector to the next; with 0 each vector is evaluated alone.
    """

    def __init__(self, net: Supernet, task: Task, effort: Effort | None = None, memory: int = MEMORY) -> None:
        self.net, self.task, self.effort = net, task, effort or Effort.whole(task)
        self._calibration = Calibration(net, memory)
        self._shares: bool | None = None if memory else False

    def __call__(
        self, vectors: Sequence[Vector], parts: Sequence[str], reporter: Reporter | None = None, label: str = ""
    ) -> list[Record]:
        """What these parts (val, test) say of each vector; ``label`` says what they are, for progress."""
        found: list[dict[str, list[Outcomes]]] = [{part: [] for part in parts} for _ in vectors]
        together = self.shares
        passes = (self._together if together else self._alone)(vectors, found)
        batches = sum(-(-self.effort.images(part) // self.task.batch_size) for part in parts)
        batches += self.effort.calibration_batches(self.task.batch_size) if together else 0
        for _ in (reporter or Silent()).track(passes, len(vectors) * batches, label):
            pass
        return [self._record(*each) for each in zip(vectors, found, strict=True)]

    @property
    def shares(self) -> bool:
        """Whether vectors share anything."""
        if self._shares is None:
            batch = next(iter(self.task.calibration_batches(self.effort.calibration)))
            with self.task.precision.exact.autocast():
                self._shares = self._calibration.shares(batch[:2])
        return self._shares

    def network(self, vector: Vector) -> fx.GraphModule:
        """The lowered network of a vector with recalibrated statistics, computed anew where it was not evaluated."""
        if vector in self._calibration:
            return self._calibration.lowered(vector)
        return lowered(self.net, vector, self.task, self.effort)

    def _together(self, vectors: Sequence[Vector], found: Sequence[dict[str, list[Outcomes]]]) -> Iterator[None]:
        new = [vector for vector in vectors if vector not in self._calibration]
        with self.task.precision.exact.autocast():
            batches = self.task.calibration_batches(self.effort.calibration)
            yield from map(_nothing, self._calibration.calibrate(new, batches))
        for part in dict.fromkeys(part for each in found for part in each):
            for batch in self.task.part_batches(part, self.effort.images(part)):
                for index in self._calibration.over(vectors, len(batch[1])):
                    found[index][part].append(self.task.outcome(self._calibration, batch))
                    yield

    def _alone(self, vectors: Sequence[Vector], found: Sequence[dict[str, list[Outcomes]]]) -> Iterator[None]:
        for vector, each in zip(vectors, found, strict=True):
            network = self.network(vector)
            for part, outcomes in each.items():
                for batch in self.task.part_batches(part, self.effort.images(part)):
                    outcomes.append(self.task.outcome(network, batch))
                    yield

    def _record(self, vector: Vector, found: dict[str, list[Outcomes]]) -> Record:
        record: Record = {}
        if "val" in found:
            losses, right = map(torch.cat, zip(*found["val"], strict=True))
            loss = float(losses.mean())
            record = {
                **self.net.space.describe(vector),
                "accuracy": float(right.double().mean()),
                "loss": loss if math.isfinite(loss) else None,
                **self.net.space.cost(vector),
            }
        if "test" in found:
            record[RIGHT] = packed(torch.cat([right for _, right in found["test"]]).numpy())
        return record


class Evaluations:
    """The evaluations of a run: they are written into it lot by lot, and never repeated.

    Of several ranks, rank 0 asks for evaluations, and the others follow its ``crew``.

    Args:
        evaluator: Of the supernet with the weights that the search left.
        folder: The run.
        reporter: Receives progress.

    Raises:
        UsageError: The file of earlier evaluations is damaged.
    """

    def __init__(self, evaluator: Evaluator, folder: RunFolder, reporter: Reporter) -> None:
        self.evaluator, self._reporter, self._ranks = evaluator, reporter, folder.ranks
        self._path = folder.path / EVALUATIONS
        self.crew = Crew(folder.ranks, self._evaluate)
        cure = "delete it to evaluate again"
        known = self._ranks.first and self._path.exists()
        records = read_sealed(self._path, cure)["evaluations"] if known else []
        self._known: dict[Vector, Record] = {evaluator.net.space.read(record): record for record in records}

    def __call__(self, vectors: Iterable[Vector], label: str, *, judged: bool = False) -> list[Record]:
        """The records of these vectors, as :func:`evaluate_vector` makes them; ``label`` says what they are."""
        vectors, known = list(vectors), self._known
        new = sorted({vector for vector in vectors if vector not in known})
        more = sorted({vector for vector in vectors if vector in known and RIGHT not in known[vector]}) * judged
        for group, parts in ((new, ["val", "test"] if judged else ["val"]), (more, ["test"])):
            size = self._ranks.size * (_LOT if group and self.evaluator.shares else 1)
            for lot in (group[start : start + size] for start in range(0, len(group), size)):
                found = self._share_out(lot, parts, label)
                known |= {vector: {**known.get(vector, {}), **each} for vector, each in zip(lot, found, strict=True)}
                write_sealed(self._path, {"evaluations": list(known.values())})
        effort = self.evaluator.effort
        also = f" and {effort.test} that judge" if judged else ""
        images = f"{count(effort.val, 'validation image')}{also}"
        self._reporter.say(f"{label}: {len(vectors)} evaluated on {images}")
        return [known[vector] for vector in vectors]

    def _share_out(self, vectors: Sequence[Vector], parts: Sequence[str], label: str) -> list[Record]:
        """Each rank takes neighbours, which have most in common."""
        cut = self._ranks.cut([1.0] * len(vectors))
        items = [[[list(vectors[index]) for index in own], list(parts), label] for own in cut]
        return [record for records in self.crew(items) for record in records]

    def _evaluate(self, item: tuple[Sequence[Sequence[int]], Sequence[str], str]) -> list[Record]:
        vectors, parts, label = item
        return self.evaluator([tuple(vector) for vector in vectors], parts, self._reporter, label)


def _nothing(index: int) -> None:
    """Progress needs no more than that a pass is done."""
