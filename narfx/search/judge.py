"""The judge of single architectures: their loss and their distance from the base on a stated set of images.

All architectures see the same training images, each batch with BatchNorm statistics of its own, as in
LANA (arXiv 2107.10624, section 3.3). What is reported is relative to the base under the same conditions, image by
image, so that standard errors are those of differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from narfx.compiler.prefixes import Prefixes
from narfx.graph.batchnorm import batch_statistics
from narfx.runs.progress import Reporter
from narfx.search.measuring import Judged
from narfx.space.records import Vector
from narfx.tasks.task import Task

__all__ = ["NetJudge"]

Compared: TypeAlias = tuple[Tensor, Tensor, Tensor]


class NetJudge:
    """Judges vectors on training images, spread over the classes; what vectors have in common is computed once.

    Args:
        prefixes: Of the supernet.
        task: Whose loss and divergence count.
        images: How many images; afterwards how many there are.
        reporter: Receives progress.
    """

    def __init__(self, prefixes: Prefixes, task: Task, images: int, reporter: Reporter) -> None:
        self._prefixes, self._task, self._reporter = prefixes, task, reporter
        self._batches = list(task.spread_batches(images))
        self.images = sum(len(labels) for _, labels in self._batches)
        self._outputs: list[Tensor] = []
        with torch.inference_mode(), batch_statistics(prefixes.net):
            prefixes.net.set_vector(prefixes.net.space.base)
            self._outputs = [task.precision.apply(prefixes.net, inputs) for inputs, _ in self._batches]
        known = [self._compared(ours, index) for index, ours in enumerate(self._outputs)]
        self._losses, self._wrong = (torch.cat([part[k] for part in known]) for k in (0, 2))
        self.base = {"loss": float(self._losses.mean()), "accuracy": 1 - float(self._wrong.mean())}
        self.judged = 0

    @torch.inference_mode()
    def __call__(self, vectors: Iterable[Vector], label: str) -> list[Judged]:
        """Judge vectors, batch by batch."""
        chosen = list(vectors)
        self.judged += len(chosen)
        found: list[list[Compared]] = [[] for _ in chosen]
        turns = ((batch, index) for batch in range(len(self._batches)) for index in self._over(chosen, batch))
        with batch_statistics(self._prefixes.net):
            for batch, index in self._reporter.track(turns, len(chosen) * len(self._batches), label):
                outputs = self._task.precision.apply(self._prefixes, self._batches[batch][0])
                found[index].append(self._compared(outputs, batch))
        return [self._judge(*map(torch.cat, zip(*parts, strict=True))) for parts in found]

    def _over(self, vectors: list[Vector], batch: int) -> Iterator[int]:
        return self._prefixes.over(vectors, len(self._batches[batch][1]))

    def _judge(self, losses: Tensor, apart: Tensor, wrong: Tensor) -> Judged:
        return Judged(*_mean(losses - self._losses), *_mean(apart), *_mean(wrong - self._wrong))

    @torch.inference_mode()
    def _compared(self, outputs: Tensor, batch: int) -> Compared:
        """Of each image of a batch (B,): its loss, its distance from the base, and whether it is classified wrongly."""
        labels, task = self._batches[batch][1], self._task
        return (
            task.losses(outputs, labels).double(),
            task.divergence(outputs, self._outputs[batch]),
            (task.logits(outputs).argmax(1) != labels).double(),
        )


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error (0 for a single image)."""
    values = values.double()
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(values.mean()), error
