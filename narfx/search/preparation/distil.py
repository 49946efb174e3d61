"""Distillation of the operators from the base's own features, all sites in one forward pass of the base.

LANA (Molchanov et al., arXiv 2107.10624, section 3.1) and Puzzle (Bercovich et al., arXiv 2411.19146, section 3.1):
each operator learns by itself to give what the base's convolution gives. No gradient passes from one site to another,
so that the problems are small, and as many as there are operators.

In the first passes an operator sees what the base sees at its site. In the last ones it sees what a random
architecture gives it there, and learns to give what the base gives all the same: where it stands in a network, the
operators before it are replaced too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from narfx.compiler.features import Visit
from narfx.data.image_data import Batch
from narfx.graph.batchnorm import batch_statistics
from narfx.runs.events import Distilled
from narfx.search.config import Compared
from narfx.search.preparation.lessons import Lessons
from narfx.search.shared_weights import SharedWeights
from narfx.space.records import AnySite, Vector
from narfx.space.space import SearchSpace
from narfx.support.collectives import average_gradients
from narfx.support.seeds import numpy_generator
from narfx.support.text import count

__all__ = ["Distil"]

_LEAST_RATE = 0.01
_MEMORY = 4 << 30


@dataclass(frozen=True)
class Distil:
    """So many passes over the training images, in which operators learn the base's features by Adam.

    The base computes in eval mode and does not change. The learning rate falls from ``rate`` to a hundredth of it, by
    a cosine over all passes; Adam's moments begin anew with each pass, so that a pass depends on the weights alone.

    Args:
        epochs: How many passes.
        rate: The highest learning rate.
        compare: What :class:`~narfx.search.preparation.lessons.Wanted` compares.
        mixed: How many of the passes, the last ones, give operators the inputs of random architectures. In each of
            these a slot keeps the base with a probability of one half.
        memory: The most bytes of features that are kept, never for longer than a batch. Where the sites of a mixed
            pass need more, they learn in groups, with further forward passes; the result is the same.
    """

    epochs: int
    rate: float = 2e-3
    compare: Compared = "standardised"
    mixed: int = 1
    memory: int = _MEMORY
    label: ClassVar[str] = "operators from the base's features"

    def train(self, epoch: int, own: int, space: SearchSpace, shared: SharedWeights) -> Distilled:
        """One pass; a batch that gives NaN in an operator is left out for this operator, and counted.

        Each rank has its share of each batch; an operator's gradients are averaged over the ranks where it learnt.

        Raises:
            UsageError: The base is not legal in the space, or its slots offer nothing to teach.
        """
        lessons = Lessons(shared.net, space, self.compare)
        if not lessons.parameters():
            return Distilled(epoch=epoch + 1)
        optimizer = torch.optim.Adam(lessons.parameters(), lr=self.rate)
        steps = shared.task.steps_per_epoch
        teach = self._pass(epoch, own, space, shared, lessons)
        label = f"epoch {epoch + 1}: {self.label}"
        for step, batch in enumerate(shared.reporter.track(shared.epoch(epoch).batches, steps, label)):
            for group in optimizer.param_groups:
                group["lr"] = self._rate((own + step / steps) / self.epochs)
            optimizer.zero_grad(set_to_none=True)
            teach(batch)
            lessons.judge()
            average_gradients(shared.ranks, lessons.parameters(), 0.0, len(batch[1]))
            optimizer.step()
        lessons.add_up(shared.ranks)
        batches = steps * shared.ranks.size
        for name, left in lessons.left_out.items():
            shared.reporter.say(
                f"warning: {name} gave NaN, or a gradient that is not finite, for {left} of {batches} batches: it did "
                "not learn from them"
            )
        return Distilled(
            epoch=epoch + 1,
            loss=lessons.mean,
            lr=optimizer.param_groups[0]["lr"],
            errors=lessons.errors(),
            left_out=lessons.left_out or None,
        )

    def _rate(self, time: float) -> float:
        return self.rate * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * time)) / 2)

    def _pass(
        self, epoch: int, own: int, space: SearchSpace, shared: SharedWeights, lessons: Lessons
    ) -> Callable[[Batch], None]:
        """What adds the gradients of one batch, in this pass."""
        if own < self.epochs - self.mixed:
            return lambda batch: _from_base(batch, space, shared, lessons)
        groups = _groups(lessons.slots, space, shared.task.batch_size, self.memory)
        if len(groups) > 1:
            shared.reporter.say(
                f"the features of all sites do not fit into {self.memory / 2**30:.3g} GiB: the operators learn in "
                f"{count(len(groups), 'group')} of sites"
            )
        vectors = _random_vectors(space, numpy_generator(shared.seed, "distil", epoch))
        return lambda batch: _from_mixture(batch, next(vectors), groups, space, shared, lessons)


def _from_base(batch: Batch, space: SearchSpace, shared: SharedWeights, lessons: Lessons) -> None:
    """All sites learn while the base's forward pass reaches them, so that one site's features are all that is kept."""
    net = shared.net
    net.set_vector(space.base)
    taught = net.visits(lessons.slots, lambda visit: lessons.learn(visit, visit.output))
    with lessons.modes(net), taught, torch.no_grad():
        shared.task.precision.train(net, batch[0])


def _from_mixture(
    batch: Batch, vector: Vector, groups: Sequence[Sequence[int]], space: SearchSpace, shared: SharedWeights,
    lessons: Lessons,
) -> None:  # fmt: skip
    """The sites of one group after another: what the base gives is kept, and learnt from the vector's own inputs."""
    net, precision = shared.net, shared.task.precision
    for group in groups:
        wanted: dict[str, list[Tensor]] = {}

        def keep(visit: Visit, wanted: dict[str, list[Tensor]] = wanted) -> None:
            wanted.setdefault(visit.node.site, []).append(visit.output.clone())

        def learn(visit: Visit, wanted: dict[str, list[Tensor]] = wanted) -> None:
            lessons.learn(visit, wanted[visit.node.site].pop(0))  # a module that is called twice learns in order

        with torch.no_grad():
            net.set_vector(space.base)
            net.eval()
            with net.visits(group, keep):
                precision.train(net, batch[0])
            net.set_vector(vector)
            with net.visits(group, learn), batch_statistics(net):
                precision.train(net, batch[0])


def _random_vectors(space: SearchSpace, rng: np.random.Generator) -> Iterator[Vector]:
    """Vectors whose entries are the base's with a probability of one half, else uniform over the others."""
    others = [tuple(k for k in slot.legal if k) for slot in space.slots]
    while True:
        yield tuple(int(rng.choice(legal)) if legal and rng.random() < 0.5 else 0 for legal in others)


def _groups(slots: Sequence[int], space: SearchSpace, batch: int, memory: int) -> list[list[int]]:
    """The slots in order, cut where the outputs of their sites exceed the memory; each has at least one slot."""
    groups: list[list[int]] = []
    room = 0.0
    for index in slots:
        size = sum(4 * batch * _numbers(site) for site in space.slots[index].sites)
        if not groups or size > room:
            groups.append([])
            room = memory
        groups[-1].append(index)
        room -= size
    return groups


def _numbers(site: AnySite) -> int:
    """How many numbers an operator gives at a site for one sample."""
    return math.prod(site.output_shape) * site.images
