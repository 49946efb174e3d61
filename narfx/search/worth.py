"""What a vector is worth to a search with targets: its reward, less what its costs over the targets take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["FORMS", "Worth"]

FORMS = ("excess", "power")


@dataclass(frozen=True)
class Worth:
    """The form of the objective.

    ``excess``: reward - penalty · Σ max(0, cost / T - 1), the reward in standard deviations of those seen. ``power``:
    reward · Π (cost / T) ^ exponent (MnasNet, Tan et al., arXiv 1807.11626, equation 2), the reward as it is; -0.07 on
    both sides of the target is their soft form. It is for rewards above 0, such as accuracies.
    """

    form: str
    penalty: float
    exponent: float

    @property
    def heeds_costs(self) -> bool:
        """Whether costs change it at all."""
        return (self.exponent if self.form == "power" else self.penalty) != 0

    def of(self, rewards: Tensor, ratios: Tensor, mean: float, spread: float) -> Tensor:
        """The worth of vectors in standard deviations above the mean reward.

        Args:
            rewards: ``(n,)``: in standard deviations (``spread``) above ``mean``.
            ratios: ``(n, costs)``: each cost over its target.
            mean: Of the rewards seen.
            spread: Their standard deviation; infinite where they are all equal.
        """
        if self.form == "excess":
            return rewards - self.penalty * (ratios - 1).relu().sum(1)
        # A vector without a cost is worth no more than one with a thousandth of the target.
        factor = ratios.clamp(min=1e-3).pow(self.exponent).prod(1)
        offset = mean / spread if math.isfinite(spread) else 0.0
        return (rewards + offset) * factor - offset
