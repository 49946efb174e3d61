"""Levels of batches of proposals: what the rewards of one batch have in common, apart from what its vectors are worth.

On shared weights all vectors of a batch see the same minibatch and the same weights, and these improve from epoch to
epoch. So the rewards of different batches do not compare as they are. Nor do rewards less the mean of their batch,
because a strategy that learns proposes better vectors. The model is

    reward = level of the batch + Σ worth of each choice + noise.

The worths are estimated within the batches (ridge regression). The level of a batch is its mean reward less the mean
worth of its vectors, shrunk to the mean of all batches by the share of noise in it (a mixed model, by moments).
Levels that noise alone explains (by an F test) are zero: then rewards compare as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["levels"]

_RIDGE = 1e-3
_SURE = 0.999

Floats = NDArray[np.float64]


def levels(space: SearchSpace, batches: Sequence[Sequence[tuple[Vector, float]]]) -> list[float]:
    """How far the level of each batch lies above the mean level; zeros where the levels do not differ for sure."""
    from scipy.special import fdtri

    zeros = [0.0] * len(batches)
    sizes = np.array([len(batch) for batch in batches], dtype=float)
    if len(batches) < 2 or sizes.max() < 2:
        return zeros
    rewards = np.array([reward for batch in batches for _, reward in batch])
    choices = _indicators(space, np.array([vector for batch in batches for vector, _ in batch]))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    batch_of = np.repeat(np.arange(len(batches)), sizes.astype(int))
    mean_reward, mean_choices = (np.add.reduceat(x, starts) / _column(sizes, x) for x in (rewards, choices))
    own_reward, own_choices = rewards - mean_reward[batch_of], choices - mean_choices[batch_of]
    gram = own_choices.T @ own_choices
    inverse = np.linalg.inv(gram + _RIDGE * np.eye(len(gram)))
    worth = inverse @ (own_choices.T @ own_reward)
    left = len(rewards) - len(batches) - float(np.trace(inverse @ gram))
    if left < 1:
        return zeros
    residual = own_reward - own_choices @ worth
    # Rewards without any noise would show the ridge's own bias as levels: a hundredth of their spread does not matter.
    noise = max(float(residual @ residual) / left, 1e-4 * float(rewards.var()))
    level = mean_reward - mean_choices @ worth
    level -= np.average(level, weights=sizes)
    apart = mean_choices - choices.mean(0)
    unsure = noise * (1 / sizes + (apart @ inverse * apart).sum(1))
    freedom = len(batches) - 1
    if not noise or float((level**2 / unsure).sum()) / freedom <= fdtri(freedom, left, _SURE):
        return zeros
    between = max(float((level**2 - unsure).mean()), 0.0)
    shrunk: list[float] = (level * between / (between + unsure)).tolist()
    return shrunk


def _indicators(space: SearchSpace, vectors: NDArray[np.int64]) -> Floats:
    """``(n, columns)``: a column for each legal choice of each slot but its first."""
    columns = [vectors[:, i] == k for i, slot in enumerate(space.slots) for k in slot.legal[1:]]
    return np.stack(columns, 1).astype(float) if columns else np.zeros((len(vectors), 0))


def _column(sizes: Floats, like: Floats) -> Floats:
    return sizes if like.ndim == 1 else sizes[:, None]
