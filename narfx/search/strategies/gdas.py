"""GDAS: one drawn operator a slot, by Gumbel-softmax with a straight-through gradient (Dong and Yang, 1910.04465)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from narfx.compiler.supernet import Supernet
from narfx.search.mixture.strategy import MixtureStrategy
from narfx.search.option_checks import number
from narfx.search.registry import register_strategy
from narfx.search.supernet_strategy import Minibatch
from narfx.space.records import Slot
from narfx.space.space import SearchSpace
from narfx.tasks.task import Task

__all__ = ["Gdas"]


class Gdas(MixtureStrategy):
    """A step of the weights on one draw and training images, then one of the architecture on another, on validation.

    Args:
        space: As for all strategies.
        seed: As for all strategies.
        tau_max: The temperature at the first step.
        tau_min: The temperature that the last step comes near to; it falls evenly.
    """

    needs_epochs: ClassVar[bool] = True

    def __init__(
        self, space: SearchSpace, *, seed: int = 0, tau_max: float = 10.0, tau_min: float = 0.1, **options: Any
    ) -> None:
        super().__init__(space, seed=seed, **options)
        self._temperatures = number("tau_max", tau_max, above=0), number("tau_min", tau_min, above=0)
        if tau_min > tau_max:
            raise ValueError(f"tau_min is {tau_min:g}, above tau_max ({tau_max:g}): the temperature falls")

    def computed(self, slot: Slot) -> list[tuple[int, ...]]:
        """See the base class: one choice, the one that was drawn."""
        return [(k,) for k in slot.legal]

    def _temperature(self, batches: Minibatch) -> float:
        first, last = self._temperatures
        return first + (last - first) * batches.progress

    def _learn(self, net: Supernet, task: Task, batches: Minibatch) -> float:
        temperature = self._temperature(batches)
        with torch.no_grad():
            net.set_mixture(self._weights.drawn_rows(temperature))
        batches.train_weights()
        net.set_mixture(self._weights.drawn_rows(temperature))
        loss = task.objective(net, *batches.validation)
        self._step(torch.autograd.grad(loss, [self._weights.values])[0])
        return float(loss.detach())

    def _more(self, batches: Minibatch) -> dict[str, Any]:
        return {"temperature": self._temperature(batches)}


register_strategy("gdas", Gdas)
