"""Costs as a strategy with targets needs them: of one-hot codes, against targets between the least and the highest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from narfx.search.policies.masks import Masks
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["Targets"]

_RIDGE = 1e-3
_LEAST = 0.05


class Targets:
    """The named costs as sums over choices, in shares of the highest cost, corrected by what was told.

    Args:
        space: The slots and the budget.
        names: Of the costs.
        fixed: One target for all, as a share of the base's cost, or ``None``: between the least and the highest cost.
    """

    def __init__(self, space: SearchSpace, names: Sequence[str], fixed: float | None = None) -> None:
        self._space, self._names = space, names
        masks = Masks(space)
        self._shape = masks.legal.shape
        self._unit = _row([max(abs(space.most(name)), abs(space.least(name))) or 1.0 for name in names])
        self._fixed = _row([space.fixed.get(name, 0.0) for name in names]) / self._unit
        tables = [torch.from_numpy(masks.costs(space, name)) for name in names]
        self._own = torch.stack(tables) / self._unit[:, None, None] if names else torch.zeros(0, *self._shape)
        self._table = self._own = self._own.to(torch.float64)
        bounds, base = space.budget.bounds, space.cost(space.base)
        self._bounds = [
            (torch.from_numpy(masks.costs(space, name)), bound - space.fixed.get(name, 0.0))
            for name, bound in bounds.items()
        ]
        self._low, self._high = (
            (_row([space.least(name) for name in names]),
             _row([min(space.most(name), bounds.get(name, math.inf)) for name in names]))
            if fixed is None
            else (_row([fixed * base[name] for name in names]),) * 2
        )  # fmt: skip
        self._low, self._high = self._low / self._unit, self._high / self._unit

    @property
    def highest(self) -> Tensor:
        """The highest targets, ``(costs,)``."""
        return self._high

    def shares(self, costs: Sequence[Mapping[str, float]]) -> Tensor:
        """Costs by name as shares of the highest cost: ``(n, costs)``."""
        rows = [[cost[name] for name in self._names] for cost in costs]
        return torch.tensor(rows, dtype=torch.float64).view(len(costs), len(self._names)) / self._unit

    def correct(self, told: Mapping[Vector, Mapping[str, float]]) -> None:
        """Fit what told costs add to the space's own, as a sum over choices (ridge regression)."""
        self._table = self._own
        if not told or not self._names:
            return
        codes = torch.nn.functional.one_hot(torch.tensor([*told]), self._shape[1]).to(torch.float64)
        apart = self.shares([self._space.cost(vector) | dict(costs) for vector, costs in told.items()]) - self.of(codes)
        flat = codes.flatten(1)
        gram = flat.T @ flat + _RIDGE * torch.eye(flat.shape[1], dtype=torch.float64)
        added = torch.linalg.solve(gram, flat.T @ apart)
        self._table = self._own + added.T.reshape(self._own.shape)

    def of(self, codes: Tensor) -> Tensor:
        """The costs of one-hot codes: ``(n, slots, choices)`` to ``(n, costs)``."""
        return self._fixed + torch.einsum("nlk,clk->nc", codes, self._table)

    def ratios(self, codes: Tensor, drawn: Tensor) -> Tensor:
        """Each cost over its target, ``(n, costs)``; a target is drawn from [0, 1], where 0 is the least cost."""
        targets = torch.maximum(self._low + (self._high - self._low) * drawn, _LEAST * self._high.abs() + 1e-9)
        return self.of(codes) / targets

    def fits(self, codes: Tensor) -> Tensor:
        """Whether one-hot codes meet the budget, but for rounding: ``(n, slots, choices)`` to ``(n,)``."""
        met = torch.ones(len(codes), dtype=torch.bool)
        for table, bound in self._bounds:
            met &= (codes * table).sum((1, 2)) <= bound
        return met


def _row(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)
