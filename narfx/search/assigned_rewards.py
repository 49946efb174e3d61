"""Assigned rewards (NAR, arXiv 1905.02341, equations 6 to 8): the reward that a batch assigns to each choice.

REINFORCE on a batch of N proposals is a cross-entropy of the policy weighted by R_O[j, k] = (1/N) Σᵢ Oⁱ[j, k] · Rⁱ for
operator k of slot j, and by R_S[t, j, b] = (1/N) Σᵢ Rⁱ · 1[Sⁱ[t, j] = b] for state b (open or closed) of skip (t, j).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["Floats", "assigned_by_choice", "assigned_rewards", "parts"]

Floats = NDArray[np.float64]


def parts(space: SearchSpace) -> dict[str, list[int]]:
    """The slots of the ``operators`` and those of the ``skips``."""
    skips = set(space.skip_slots)
    return {"operators": [index for index in range(len(space)) if index not in skips], "skips": sorted(skips)}


def assigned_rewards(
    space: SearchSpace, vectors: Sequence[Vector], rewards: Sequence[float], baseline: float
) -> dict[str, Any]:
    """Equations 6 to 8 for one batch of proposals, in plain numbers of five digits.

    Returns:
        ``operators``: a row for each slot that is no skip, a number for each choice (0 where it is not legal).
        ``skips``, where there are any: their ``targets``, and for each of these what is assigned to ``open``, one
        number a source in ascending order; what is assigned to closed is the batch's mean reward less that.
        ``variance``: of the assigned rewards of either part the ``mean`` over all choices and their variances, over
        the ``samples`` of the batch (of one decision's choice, then the mean over all) and over ``depth`` (of one
        choice over the slots, or over the targets after the mean over sources; then the mean over choices).
        ``advantage_variance``: the same with R − ``baseline`` in place of R.
    """
    chosen, observed = np.array(vectors), np.array(rewards, dtype=float)
    slots = parts(space)
    legal, taken = _operators(space, slots["operators"], chosen)
    assigned = _assigned(observed, taken)
    found: dict[str, Any] = {"operators": [[_short(value) for value in row] for row in assigned.tolist()]}
    targets, states = _skips(space, slots["skips"], chosen)
    if len(targets):
        opened = _assigned(observed, states[..., 1])
        depths = np.unique(targets)
        rows = [[_short(value) for value in opened[targets == depth].tolist()] for depth in depths]
        found["skips"] = {"targets": depths.tolist(), "open": rows}
    for key, earned in (("variance", observed), ("advantage_variance", observed - baseline)):
        found[key] = {}
        if len(legal):
            found[key]["operators"] = _variance_of_operators(taken * earned[:, None, None], legal)
        if len(targets):
            found[key]["skips"] = _variance_of_skips(states * earned[:, None, None], targets)
    return found


def assigned_by_choice(space: SearchSpace, vectors: Sequence[Vector], rewards: Sequence[float]) -> Floats:
    """Equation 6 for one batch of proposals: what is assigned to each legal choice of each slot that is no skip."""
    legal, taken = _operators(space, parts(space)["operators"], np.array(vectors))
    found: Floats = _assigned(np.array(rewards, dtype=float), taken)[legal]
    return found


def _assigned(rewards: Floats, taken: Floats) -> Floats:
    """The mean over the samples of what each has taken, times its reward."""
    return np.tensordot(rewards, taken, axes=1) / len(rewards)


def _operators(space: SearchSpace, slots: Sequence[int], chosen: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Floats]:
    """What is legal, ``(slots, choices)``, and what each sample takes, ``(n, slots, choices)``."""
    choices = np.arange(max((len(space.slots[index].choices) for index in slots), default=0))
    legal = np.array([[k in space.slots[index].legal for k in choices] for index in slots], dtype=bool)
    return legal, (chosen[:, list(slots), None] == choices).astype(float)


def _skips(space: SearchSpace, slots: Sequence[int], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
    """The targets of the skips, by target and source, and what each sample has closed and open, ``(n, skips, 2)``."""
    pairs = [(skip.target, skip.source, skip.base, index) for index in slots if (skip := space.slots[index].skip)]
    pairs.sort()
    base = np.array([pair[2] for pair in pairs], dtype=bool)
    opened = base != chosen[:, [pair[3] for pair in pairs]].astype(bool)
    return np.array([pair[0] for pair in pairs], dtype=np.int64), np.stack([~opened, opened], -1).astype(float)


def _variance_of_operators(terms: Floats, legal: NDArray[np.bool_]) -> dict[str, float]:
    assigned = terms.mean(0)
    depth = np.array([assigned[here, k].var() for k, here in enumerate(legal.T) if here.any()])
    return _summary(assigned[legal], terms.var(0)[legal], depth)


def _variance_of_skips(terms: Floats, targets: NDArray[np.int64]) -> dict[str, float]:
    assigned = terms.mean(0)
    by_depth = np.stack([assigned[targets == depth].mean(0) for depth in np.unique(targets)])
    return _summary(assigned, terms.var(0), by_depth.var(0))


def _summary(assigned: Floats, samples: Floats, depth: Floats) -> dict[str, float]:
    named = {"mean": assigned, "samples": samples, "depth": depth}
    return {name: _short(float(values.mean())) for name, values in named.items()}


def _short(value: float) -> float:
    return float(f"{value:.5g}")
