"""The one loop of the strategies that learn architecture weights by gradients through a mixture.

Each step makes a step of the architecture weights and one of the shared weights; a subclass says in which order, on
which images and by which mixture. Everything else is here: Adam for the architecture weights, the price of a budget,
what is recorded and checkpointed, and the vectors at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from narfx.compiler.supernet import Supernet
from narfx.errors import RunError, UsageError
from narfx.search.mixture.price import BudgetPrice
from narfx.search.mixture.weights import ArchitectureWeights
from narfx.search.option_checks import number, whole
from narfx.search.strategy import Evaluated
from narfx.search.supernet_strategy import Minibatch
from narfx.space.records import Slot, Vector
from narfx.space.space import SearchSpace
from narfx.space.strongest import strongest_vectors
from narfx.tasks.task import Task

__all__ = ["MixtureStrategy"]

_BETAS = 0.5, 0.999


class MixtureStrategy(ABC):
    """Architecture weights, their optimizer and what a search asks of a strategy.

    Args:
        space: The slots with their legal choices, and the budget.
        seed: Of the first architecture weights and of all draws.
        lr: Learning rate of Adam for the architecture weights.
        weight_decay: Their weight decay, added to the gradient.
        budget_rate: How fast the price of an expected cost above the budget rises in a step; with 0 the budget
            counts at the end alone.
        record: Steps between two records of the architecture weights; the last step of an epoch is always recorded.
    """

    needs_epochs: ClassVar[bool] = False

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        lr: float = 3e-4,
        weight_decay: float = 1e-3,
        budget_rate: float = 0.01,
        record: int = 10,
    ) -> None:
        self._space = space
        self._record = whole("record", record, least=1)
        self._price = BudgetPrice(space, number("budget_rate", budget_rate, least=0))
        self._generator = torch.Generator().manual_seed(seed)
        self._weights = ArchitectureWeights(space, self._generator)
        self._optimizer = torch.optim.Adam(
            [self._weights.values],
            lr=_rate(lr),
            betas=_BETAS,
            weight_decay=number("weight_decay", weight_decay, least=0),
        )
        self._steps = 0
        if self._must_choose() and not any(len(slot.legal) > 1 for slot in space.slots):
            raise UsageError(
                "no slot of this space has two legal choices, so that there is no mixture to learn: offer more "
                "operators (--operators)",
                where="space",
                kind="no_candidates",
            )

    def _must_choose(self) -> bool:
        """Whether a space without a choice is refused."""
        return True

    @property
    def passes(self) -> int:
        """Forward and backward passes in a step."""
        return 2

    def computed(self, slot: Slot) -> list[tuple[int, ...]]:
        """The sets of a slot's choices that a forward pass may compute at once, one of which it does."""
        return [slot.legal]

    def notes(self, space: SearchSpace) -> list[str]:
        """Sentences about how the strategy sees the space, said before the run."""
        return []

    @abstractmethod
    def _learn(self, net: Supernet, task: Task, batches: Minibatch) -> float:
        """One step of both kinds of weights; returns the loss that taught the architecture."""

    def train_step(self, net: Supernet, task: Task, batches: Minibatch) -> dict[str, Any]:
        """One step on one minibatch.

        Returns:
            At a step that is recorded: ``architecture_loss``, ``entropy`` (nats a slot), ``probabilities`` and
            ``alphas`` by slot, under a budget the ``expected`` costs and their ``prices``, and what the strategy adds.

        Raises:
            RunError: An architecture weight or the loss is not finite.
        """
        self._check()
        loss = self._learn(net, task, batches)
        self._steps += 1
        if self._steps % self._record and not batches.last:
            return {}
        return {
            "architecture_loss": loss,
            "entropy": self._weights.entropy(),
            **self._more(batches),
            **self._price.described(self._weights.probabilities()),
            **self._weights.described(),
        }

    def _more(self, batches: Minibatch) -> dict[str, Any]:
        """Further metrics of a recorded step."""
        return {}

    def _step(self, gradient: Tensor) -> None:
        """One step of the architecture weights, with the price of the budget added to this gradient.

        Raises:
            RunError: A weight became NaN or infinite.
        """
        values = self._weights.values
        priced = self._price.loss(self._weights.probabilities())
        if priced is not None:
            gradient = gradient + torch.autograd.grad(priced, values)[0]
        values.grad = gradient
        self._optimizer.step()
        values.grad = None
        self._check()
        self._price.step(self._weights.probabilities())

    def _check(self) -> None:
        if not self._weights.finite:
            raise RunError(
                f"an architecture weight became NaN or infinite at step {self._steps + 1}: lower the learning rate of "
                "the shared weights (--lr) or of these (--strategy-option lr=...)",
                where="architecture weights",
                kind="nan_architecture",
            )

    def finalists(self, n: int) -> list[Vector]:
        """The ``n`` vectors of highest log-probability that meet the budget, by an integer program.

        ``none`` stands only where the budget needs it (:func:`narfx.space.strongest.strongest_vectors`).
        """
        return strongest_vectors(self._space, self._weights.scores(self._space), n)

    def archive(self) -> list[Evaluated]:
        """Nothing: no vector is evaluated alone."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Architecture weights, their optimizer, the prices, the number of steps and the generator."""
        return {
            "alphas": self._weights.values.detach().clone(),
            "optimizer": self._optimizer.state_dict(),
            "prices": dict(self._price.prices),
            "steps": self._steps,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        with torch.no_grad():
            self._weights.values.copy_(state["alphas"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._price.prices = dict(state["prices"])
        self._steps = state["steps"]
        self._generator.set_state(state["generator"])


def _rate(lr: float) -> float:
    rate = number("lr", lr, above=0)
    if rate > 1:
        raise ValueError(f"lr is {lr}, and must be at most 1")
    return rate
