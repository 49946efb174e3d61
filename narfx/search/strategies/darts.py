"""DARTS: differentiable architecture search (Liu et al., arXiv 1806.09055)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from narfx.compiler.supernet import Supernet
from narfx.data.image_data import Batch
from narfx.search.mixture.strategy import MixtureStrategy
from narfx.search.mixture.unrolled import unrolled_gradient
from narfx.search.option_checks import one_of
from narfx.search.registry import register_strategy
from narfx.search.supernet_strategy import Minibatch
from narfx.space.space import SearchSpace
from narfx.tasks.task import Task

__all__ = ["Darts"]


class Darts(MixtureStrategy):
    """Mixtures by softmax: a step of the architecture on validation images, then one of the weights on training images.

    Args:
        space: As for all strategies.
        seed: As for all strategies.
        order: ``first`` takes the weights as given; ``second`` looks one step of the weights ahead (equations 7
            and 8 of the paper), for twice the time. Rounding shows in its differences of gradients, so the gradient of
            the architecture is computed in float32 in every precision.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, order: str = "first", **options: Any) -> None:
        super().__init__(space, seed=seed, **options)
        self._second = one_of("order", order, ("first", "second")) == "second"

    @property
    def passes(self) -> int:
        """See the base class; the second order takes the gradient of the training loss three times."""
        return 5 if self._second else 2

    def _learn(self, net: Supernet, task: Task, batches: Minibatch) -> float:
        values = self._weights.values
        precision = task.precision.exact if self._second else task.precision

        def loss_on(batch: Batch) -> Tensor:
            net.set_mixture(self._weights.softmax_rows())
            return task.loss(precision.train(net, batch[0]), batch[1])

        if self._second:
            gradient, loss = unrolled_gradient(
                values, lambda: loss_on(batches.train), lambda: loss_on(batches.validation), batches.optimizer
            )
        else:
            found = loss_on(batches.validation)
            (gradient,), loss = torch.autograd.grad(found, [values]), float(found.detach())
        self._step(gradient)
        net.set_mixture([row.detach() for row in self._weights.softmax_rows()])
        batches.train_weights()
        return loss


register_strategy("darts", Darts)
