"""The best of what a strategy was told, and what a new vector would add to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from narfx.search.goals import improvement
from narfx.space.dominance import nondominated

__all__ = ["Elite"]

_LOWEST = -3.0


@dataclass(frozen=True)
class Elite:
    """Evaluated vectors that no other one dominates, with their rewards and costs.

    Attributes:
        vectors: ``(m, slots)``.
        rewards: ``(m,)``, in standard deviations of all rewards.
        costs: ``(m, costs)``.
        lowest: The reward of the reference point.
        highest: The costs of the reference point, ``(costs,)``.
    """

    vectors: Tensor
    rewards: Tensor
    costs: Tensor
    lowest: float
    highest: Tensor

    @classmethod
    def of(cls, vectors: Tensor, rewards: Tensor, costs: Tensor, highest: Tensor) -> Elite:
        """Those of all evaluated vectors, with the lowest reward or three standard deviations below the mean."""
        kept = torch.from_numpy(nondominated(torch.cat([rewards[:, None], -costs], 1).numpy()))
        lowest = min(float(rewards.min()), _LOWEST)
        return cls(vectors[kept], rewards[kept], costs[kept], lowest, highest)

    def __len__(self) -> int:
        return len(self.vectors)

    def improvements(self, rewards: Tensor, costs: Tensor, mixes: Tensor) -> Tensor:
        """By how much each new vector would raise the hypervolume.

        Several costs count as one, mixed with weights that sum to 1: what improves on the front of a mixture improves
        on the whole front.

        Args:
            rewards: ``(n, many)``: what is expected of them.
            costs: ``(n, many, costs)``.
            mixes: ``(n, costs)``: the weights of each row.
        """
        rows = []
        for reward, cost, mix in zip(rewards, costs, mixes, strict=True):
            front = torch.stack([self.rewards, self.costs @ mix], 1).numpy()
            points = torch.stack([reward, cost @ mix], 1).numpy()
            rows.append(improvement(front, points, (self.lowest, float(self.highest @ mix))))
        return torch.from_numpy(np.stack(rows))
