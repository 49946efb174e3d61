"""How a budget enters a search by gradients: a price on the expected cost above each bound (a Lagrange multiplier)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from narfx.space.space import SearchSpace

__all__ = ["BudgetPrice"]


class BudgetPrice:
    """Multipliers λ, one a bound, that rise while the expected cost is above the bound and fall to 0 below it.

    The expected cost is E[c] = fixed + Σ p · c over all slots and choices, with p the probabilities of the architecture
    weights; the excess is E[c] / bound − 1. A step adds ``rate`` times the excess to λ (dual ascent), and λ · excess
    is what the architecture's loss gets.

    Args:
        space: The slots with their costs, and the budget.
        rate: How fast a price moves; 0 leaves the budget to the end of the search.
    """

    def __init__(self, space: SearchSpace, rate: float) -> None:
        self._rate = rate
        self._bounds = {name: max(bound, 1e-12) for name, bound in space.budget.bounds.items()}
        self._fixed = {name: float(space.fixed.get(name, 0)) for name in self._bounds}
        width = max((len(slot.choices) for slot in space.slots), default=1)
        self._costs = {name: torch.zeros(len(space), width, dtype=torch.float64) for name in self._bounds}
        for name, table in self._costs.items():
            for index, slot in enumerate(space.slots):
                for k in slot.legal:
                    table[index, k] = slot.costs[name][k]
        self.prices = dict.fromkeys(self._bounds, 0.0)

    def expected(self, probabilities: Tensor) -> dict[str, Tensor]:
        """The expected cost of each bounded metric, for probabilities ``(slots, choices)``."""
        return {
            name: self._fixed[name] + (probabilities.double() * costs).sum() for name, costs in self._costs.items()
        }  # fmt: skip

    def loss(self, probabilities: Tensor) -> Tensor | None:
        """Σ λ · excess, or ``None`` while all prices are 0."""
        terms = [
            self.prices[name] * (cost / self._bounds[name] - 1)
            for name, cost in self.expected(probabilities).items()
            if self.prices[name]
        ]
        return torch.stack(terms).sum() if terms else None

    def step(self, probabilities: Tensor) -> None:
        """Move the prices by the present excess."""
        for name, cost in self.expected(probabilities.detach()).items():
            self.prices[name] = max(0.0, self.prices[name] + self._rate * (float(cost) / self._bounds[name] - 1))

    def described(self, probabilities: Tensor) -> dict[str, Mapping[str, float]]:
        """The ``expected`` costs and the ``prices`` by metric, where there is a budget."""
        costs = {name: float(f"{float(cost):.6g}") for name, cost in self.expected(probabilities.detach()).items()}
        return {"expected": costs, "prices": {k: round(v, 6) for k, v in self.prices.items()}} if costs else {}
