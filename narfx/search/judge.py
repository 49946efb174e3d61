"""The judge of single architectures: their loss and their distance from the base on a stated set of images.

All architectures see the same training images, each batch with BatchNorm statistics of its own, as in
LANA (arXiv 2107.10624, section 3.3). What is reported is relative to the base under the same conditions, image by
image, so that standard errors are those of differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from narfx.compiler.prefixes import Prefixes
from narfx.graph.batchnorm import batch_statistics
from narfx.runs.progress import Reporter
from narfx.search.measuring import Judged
from narfx.space.records import Vector
from narfx.support.collectives import Crew
from narfx.support.ranks import Ranks
from narfx.tasks.task import Task

__all__ = ["NetJudge"]

Compared: TypeAlias = tuple[Tensor, Tensor, Tensor]


class NetJudge:
    """Judges vectors on training images, spread over the classes; what vectors have in common is computed once.

    Of several ranks, rank 0 calls the judge, and the others follow its ``crew``.

    Args:
        prefixes: Of the supernet.
        task: Whose loss and divergence count.
        images: How many images; afterwards how many there are.
        reporter: Receives progress.
        ranks: This rank and all of them.
    """

    def __init__(
        self, prefixes: Prefixes, task: Task, images: int, reporter: Reporter, ranks: Ranks | None = None
    ) -> None:
        self._prefixes, self._task, self._reporter, self._ranks = prefixes, task, reporter, ranks or Ranks()
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
        self.crew = Crew(self._ranks, self._judge_all)

    def __call__(self, vectors: Iterable[Vector], label: str) -> list[Judged]:
        """Judge vectors, batch by batch; each rank takes neighbours, which have most in common."""
        chosen = list(vectors)
        self.judged += len(chosen)
        parts = self._ranks.cut([1.0] * len(chosen))
        found = self.crew([[label, [chosen[index] for index in part]] for part in parts])
        return [Judged(*values) for part in found for values in part]

    @torch.inference_mode()
    def _judge_all(self, item: tuple[str, Sequence[Sequence[int]]]) -> list[list[float]]:
        """The values of a :class:`~narfx.search.measuring.Judged` for each vector."""
        label, chosen = item[0], [tuple(vector) for vector in item[1]]
        found: list[list[Compared]] = [[] for _ in chosen]
        turns = ((batch, index) for batch in range(len(self._batches)) for index in self._over(chosen, batch))
        with batch_statistics(self._prefixes.net):
            for batch, index in self._reporter.track(turns, len(chosen) * len(self._batches), label):
                outputs = self._task.precision.apply(self._prefixes, self._batches[batch][0])
                found[index].append(self._compared(outputs, batch))
        return [self._judge(*map(torch.cat, zip(*parts, strict=True))) for parts in found]

    def _over(self, vectors: list[Vector], batch: int) -> Iterator[int]:
        return self._prefixes.over(vectors, len(self._batches[batch][1]))

    def _judge(self, losses: Tensor, apart: Tensor, wrong: Tensor) -> list[float]:
        return [*_mean(losses - self._losses), *_mean(apart), *_mean(wrong - self._wrong)]

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
