"""How alike the outputs of operators are, image by image, summed over batches.

``correlation`` is that of StacNAS's program (arXiv 1909.11926). With f_o(x) the output of operator o for image x and
m_o its mean over the images,

    Cov(o, o') = Σ_x ⟨f_o(x) − m_o, f_o'(x) − m_o'⟩,  Corr(o, o') = Cov(o, o') / √(Cov(o, o) · Cov(o', o')).

It compares channel with channel, so that two convolutions which compute the same in another order do not correlate.
``cka`` is linear centred kernel alignment (Kornblith et al., arXiv 1905.00414): it compares which images are alike to
each operator, whatever the channels. With K = F Fᵀ over the images of a batch and HSIC the unbiased estimate of Song et
al. (as in Nguyen et al., arXiv 2010.15327, which sums it over batches),

    CKA(o, o') = Σ HSIC(K_o, K_o') / √(Σ HSIC(K_o, K_o) · Σ HSIC(K_o', K_o')).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEASURES", "Alignment", "Correlation", "Likeness"]

Floats = NDArray[np.float64]
_CONSTANT = 1e-12
_LEAST = 4


class Likeness(Protocol):
    """Running sums over batches."""

    def add(self, outputs: Floats) -> None:
        """Add a batch, ``(operators, images, features)``."""
        ...

    def matrix(self) -> tuple[list[str], Floats]:
        """The operators that vary over the images, and how alike any two are, ``(operators, operators)``."""
        ...


class Correlation:
    """See the module."""

    def __init__(self, names: list[str]) -> None:
        self._names, self._count = names, 0
        self._products: Floats = np.zeros((len(names), len(names)))
        self._totals: Floats = np.zeros((len(names), 0))

    def add(self, outputs: Floats) -> None:
        """See :class:`Likeness`."""
        flat = outputs.reshape(len(outputs), -1)
        self._products += flat @ flat.T
        total = outputs.sum(1)
        self._totals = total if not self._count else self._totals + total
        self._count += outputs.shape[1]

    def matrix(self) -> tuple[list[str], Floats]:
        """See :class:`Likeness`."""
        covariance = self._products - self._totals @ self._totals.T / max(self._count, 1)
        return _normalised(self._names, covariance, float(np.nanmax(np.diag(self._products))))


class Alignment:
    """See the module; a batch of fewer than four images is left out."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._sums: Floats = np.zeros((len(names), len(names)))
        self._largest = 0.0

    def add(self, outputs: Floats) -> None:
        """See :class:`Likeness`."""
        n = outputs.shape[1]
        if n < _LEAST:
            return
        outputs = outputs - outputs.mean(1, keepdims=True)  # changes no HSIC, and keeps its terms small
        kernels = outputs @ outputs.transpose(0, 2, 1)
        self._largest = max(self._largest, float((kernels**2).sum((1, 2)).max()))
        kernels[:, range(n), range(n)] = 0
        rows = kernels.sum(2)
        totals = rows.sum(1)
        traces = np.einsum("aij,bij->ab", kernels, kernels)
        sums = traces + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
        self._sums += sums / (n * (n - 3))

    def matrix(self) -> tuple[list[str], Floats]:
        """See :class:`Likeness`."""
        return _normalised(self._names, self._sums, self._largest)


def _normalised(names: list[str], sums: Floats, largest: float) -> tuple[list[str], Floats]:
    """The entries over the roots of the diagonal's, for the operators whose own entry is more than rounding."""
    own = np.diag(sums)
    kept = np.flatnonzero(np.isfinite(own) & (own > _CONSTANT * max(largest, 1e-300)))
    scale = np.sqrt(own[kept])
    return [names[k] for k in kept], (sums[np.ix_(kept, kept)] / np.outer(scale, scale)).clip(-1, 1)


MEASURES: dict[str, type[Correlation] | type[Alignment]] = {"correlation": Correlation, "cka": Alignment}
