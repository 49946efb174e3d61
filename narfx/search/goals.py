"""What a search for a front wants: a high reward and low costs, as numbers of which more is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from narfx.search.strategy import Evaluated
from narfx.space.dominance import nondominated
from narfx.space.hypervolume import hypervolume
from narfx.space.space import SearchSpace

__all__ = ["archive_hypervolume", "cost_names", "gains", "improvement"]

Floats = NDArray[np.float64]


def cost_names(space: SearchSpace, text: str) -> tuple[str, ...]:
    """The costs that ``text`` names, with commas between; without a text MACs, or else the first that is known.

    Raises:
        ValueError: The space does not know one of them.
    """
    if not isinstance(text, str):
        raise ValueError(f"costs is {text!r}, and must be names of costs with commas between")
    known = space.metrics
    if not text.strip():
        return ("macs",) if "macs" in known else known[:1]
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise ValueError(f"costs has {name!r}, but the costs known here are {', '.join(known) or 'none'}")
    return names


def gains(rewards: Sequence[float], costs: Sequence[Mapping[str, float]], names: Iterable[str]) -> Floats:
    """``(n, 1 + costs)``: each reward, then each named cost with its sign turned."""
    columns = [rewards, *([-cost[name] for cost in costs] for name in names)]
    return np.array(columns, dtype=float).T


def archive_hypervolume(space: SearchSpace, archive: Sequence[Evaluated], names: Iterable[str]) -> float:
    """The hypervolume of what was evaluated, against the base's costs and a reward of 0.

    If a reward is below 0, the lowest one takes the place of 0. A cost that the base does not have is left out.
    """
    base = space.cost(space.base)
    judged = [name for name in names if base[name] > 0]
    if not archive:
        return 0.0
    rewards = [entry.result.reward for entry in archive]
    points = gains(rewards, [entry.result.costs for entry in archive], judged)
    records = [
        {"accuracy": point[0], **{name: -gain for name, gain in zip(judged, point[1:], strict=True)}}
        for point in points[nondominated(points)].tolist()
    ]
    return hypervolume(records, {"accuracy": min(0.0, *rewards), **{name: base[name] for name in judged}})


def improvement(front: Floats, points: Floats, reference: tuple[float, float]) -> Floats:
    """By how much each point would raise the hypervolume of a front of one cost.

    Args:
        front: ``(m, 2)``: reward and cost of each vector; those that are dominated change nothing.
        points: ``(n, 2)``: the same of the new points, each judged alone.
        reference: The lowest reward and the highest cost that count.
    """
    rewards, costs = front[np.argsort(front[:, 1], kind="stable")].T
    # Between two costs of the front the best reward so far is constant: a staircase.
    heights = np.concatenate([[reference[0]], np.maximum(np.maximum.accumulate(rewards), reference[0])])
    starts, ends = np.concatenate([[-np.inf], costs]), np.concatenate([costs, [reference[1]]])
    widths = np.clip(np.minimum(ends, reference[1]) - np.maximum(starts, points[:, 1:]), 0, None)
    areas: Floats = (widths * np.clip(points[:, :1] - heights, 0, None)).sum(1)
    return areas
