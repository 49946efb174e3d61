"""The interface of strategies that train with the supernet: by gradients or features, one step a minibatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch

from narfx.compiler.supernet import Supernet
from narfx.data.image_data import Batch
from narfx.search.measuring import MeasuringStrategy
from narfx.search.strategy import Evaluated, Strategy
from narfx.space.records import Vector
from narfx.tasks.task import Task

__all__ = ["AnyStrategy", "Minibatch", "SupernetStrategy"]


@dataclass(frozen=True)
class Minibatch:
    """The batches of one step, images ``(B, C, H, W)`` and labels ``(B,)`` each, and the weights' own step.

    ``validation`` is drawn when it is first asked for, so that a strategy which needs training images alone reads no
    others.

    ``train_weights()`` makes one step of the shared weights on ``train``, for what the supernet is set to, with the
    search's optimizer, learning rate and gradient clipping, and returns the loss. Tensors of the strategy's that take
    part in the forward pass receive their gradients from it. It may be called several times, or never. A mixture whose
    weights come from a computation (a softmax) must be set again after each backward pass, which frees it.

    ``optimizer`` is that of the shared weights, at the learning rate of this step; a strategy may read it.
    ``progress`` is the share of the strategy's epochs that is over before this step, from 0 to below 1, and ``last``
    says whether the step ends an epoch.
    """

    train: Batch
    draw_validation: Callable[[], Batch]
    train_weights: Callable[[], float]
    optimizer: torch.optim.Optimizer
    progress: float
    last: bool

    @cached_property
    def validation(self) -> Batch:
        """The validation images of this step."""
        return self.draw_validation()


@runtime_checkable
class SupernetStrategy(Protocol):
    """What a search needs of a strategy that trains with the supernet.

    The registered factory is called as that of a :class:`~narfx.search.strategy.Strategy`, with the space and a seed.
    """

    def train_step(self, net: Supernet, task: Task, batches: Minibatch) -> Mapping[str, Any]:
        """One step on one minibatch; the supernet is in training mode at the start.

        Returns:
            Metrics for a ``step`` event; where there are none, no event is written.
        """
        ...

    def finalists(self, n: int) -> list[Vector]:
        """At most ``n`` distinct vectors that deserve a proper evaluation, the most promising first."""
        ...

    def archive(self) -> list[Evaluated]:
        """All vectors that were evaluated, with their results; none where the strategy evaluates none alone."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on in another process: tensors, numbers, strings and containers of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        ...


AnyStrategy: TypeAlias = Strategy | SupernetStrategy | MeasuringStrategy
