"""The judge of single architectures: their loss and their distance from the base on a stated set of images.

All architectures see the same training images, each batch with BatchNorm statistics of its own, as in
LANA (arXiv 2107.10624, section 3.3). What is reported is relative to the base under the same conditions, image by
image, so that standard errors are those of differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import batch_statistics
from narfx.runs.progress import Reporter
from narfx.search.measuring import Judged
from narfx.space.records import Vector
from narfx.tasks.task import Task

__all__ = ["NetJudge"]


@dataclass
class NetJudge:
    """Judges the vectors of a supernet on ``images`` training images, spread over the classes."""

    net: Supernet
    task: Task
    images: int
    reporter: Reporter

    def __post_init__(self) -> None:
        self._batches = list(self.task.spread_batches(self.images))
        self.images = sum(len(labels) for _, labels in self._batches)
        self._outputs, self._losses, self._wrong = self._compute(self.net.space.base)
        self.base = {"loss": float(self._losses.mean()), "accuracy": 1 - float(self._wrong.mean())}
        self.judged = 0

    def __call__(self, vectors: Iterable[Vector], label: str) -> list[Judged]:
        """Judge vectors one after another."""
        chosen = list(vectors)
        self.judged += len(chosen)
        return [self._judge(vector) for vector in self.reporter.track(chosen, len(chosen), label)]

    def _judge(self, vector: Vector) -> Judged:
        outputs, losses, wrong = self._compute(vector)
        apart = [self.task.divergence(ours, base) for ours, base in zip(outputs, self._outputs, strict=True)]
        return Judged(*_mean(losses - self._losses), *_mean(torch.cat(apart)), *_mean(wrong - self._wrong))

    @torch.inference_mode()
    def _compute(self, vector: Vector) -> tuple[list[Tensor], Tensor, Tensor]:
        """The outputs, batch by batch, and of each image (B,) the loss, and whether it is classified wrongly."""
        self.net.set_vector(vector)
        task, losses, wrong = self.task, list[Tensor](), list[Tensor]()
        with batch_statistics(self.net):
            outputs = [task.precision.apply(self.net, images) for images, _ in self._batches]
        for given, (_, labels) in zip(outputs, self._batches, strict=True):
            losses.append(task.losses(given, labels).double())
            wrong.append((task.logits(given).argmax(1) != labels).double())
        return outputs, torch.cat(losses), torch.cat(wrong)


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error (0 for a single image)."""
    values = values.double()
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(values.mean()), error
