"""Architecture weights: one number for each legal choice of each slot, and the mixtures that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from narfx.space.space import SearchSpace

__all__ = ["ArchitectureWeights"]

_START = 1e-3


class ArchitectureWeights:
    """α, ``(slots, choices)``; what is not legal has no weight, and neither has what a shorter list does not have.

    They start as 1e-3 times standard normal noise, as in DARTS (arXiv 1806.09055).

    Args:
        space: The slots.
        generator: Of the first values and of Gumbel noise.
    """

    def __init__(self, space: SearchSpace, generator: torch.Generator) -> None:
        self._sizes = [len(slot.choices) for slot in space.slots]
        self._generator = generator
        self.legal = torch.zeros(len(space), max(self._sizes, default=1), dtype=torch.bool)
        for index, slot in enumerate(space.slots):
            self.legal[index, list(slot.legal)] = True
        noise = torch.randn(self.legal.shape, generator=generator)
        self.values = nn.Parameter(_START * noise * self.legal)

    @property
    def finite(self) -> bool:
        """Whether all of them are numbers."""
        return bool(torch.isfinite(self.values).all())

    def log_probabilities(self) -> Tensor:
        """Log softmax of α over the legal choices, ``(slots, choices)``; minus infinity for the others."""
        return self.values.masked_fill(~self.legal, -torch.inf).log_softmax(1)

    def probabilities(self) -> Tensor:
        """Softmax of α over the legal choices, ``(slots, choices)``; exactly 0 for the others."""
        return self.values.masked_fill(~self.legal, -torch.inf).softmax(1)

    def entropy(self) -> float:
        """The mean over the slots of the entropy of their probabilities, in nats."""
        with torch.no_grad():
            log_p = self.log_probabilities()
            return float(-(log_p.exp() * log_p.masked_fill(~self.legal, 0.0)).sum(1).mean())

    def softmax_rows(self) -> list[Tensor]:
        """The probabilities as a mixture for :meth:`narfx.compiler.supernet.Supernet.set_mixture`."""
        return [row[:size] for row, size in zip(self.probabilities(), self._sizes, strict=True)]

    def drawn_rows(self, temperature: float) -> list[list[Tensor | float]]:
        """One choice a slot, drawn by Gumbel-softmax with a straight-through weight (GDAS, arXiv 1910.04465).

        z = softmax((log p + g) / temperature) with Gumbel noise g; the drawn choice k has the largest entry. Its weight
        is 1, with the gradient of z_k; the others are the number 0, so that they are not computed.
        """
        uniform = torch.rand(self.legal.shape, generator=self._generator, dtype=torch.float64)
        tiny = torch.finfo(torch.float64).tiny
        gumbel = -(-(uniform.clamp_min(tiny)).log()).clamp_min(tiny).log()
        z = ((self.log_probabilities() + gumbel.float()) / temperature).softmax(1)
        rows: list[list[Tensor | float]] = []
        for own, k, size in zip(z, z.detach().argmax(1).tolist(), self._sizes, strict=True):
            row: list[Tensor | float] = [0.0] * size
            row[k] = 1 + (own[k] - own[k].detach())
            rows.append(row)
        return rows

    def scores(self, space: SearchSpace) -> dict[tuple[int, int], float]:
        """Minus the log-probability by (slot, choice), for the legal choices of ``space``."""
        with torch.no_grad():
            log_p = self.log_probabilities().double().tolist()
        return {(index, k): -log_p[index][k] for index, slot in enumerate(space.slots) for k in slot.legal}

    def described(self) -> dict[str, list[list[float]]]:
        """``probabilities`` and ``alphas`` by slot, a number for each choice; 0 where it is not legal."""
        tables = {"probabilities": self.probabilities(), "alphas": self.values * self.legal}
        return {
            name: [
                [float(f"{value:.6g}") for value in row[:size]]
                for row, size in zip(table.detach().tolist(), self._sizes, strict=True)
            ]
            for name, table in tables.items()
        }
