"""The multiple-choice knapsack with several bounds, left to an integer program (HiGHS, by ``scipy.optimize.milp``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from narfx.errors import RunError
from narfx.space.records import Cost, Slot, Vector

__all__ = ["knapsack"]

_REFUSED = 64
_FEW = 200
_EXACT = {"mip_rel_gap": 0.0}
_QUICK = {"mip_rel_gap": 1e-3, "node_limit": 1000}


def knapsack(
    slots: Sequence[Slot],
    fixed: Cost,
    bounds: Mapping[str, float],
    fits: Callable[[Vector], bool],
    *,
    scores: Mapping[tuple[int, int], float] | None = None,
    most_shared: int | None = None,
) -> Iterator[Vector]:
    """Legal vectors that meet all bounds, the least sum of scores first.

    Each solution cuts off what shares more than ``most_shared`` entries with it (LANA, arXiv 2107.10624, section 3.3),
    by default only itself. The first one is the best there is. The further ones are too, where there are no more than
    200 choices; where there are more, each is the best that a search of 1,000 nodes finds, usually within 0.1 %.

    Args:
        slots: The slots, whose legal choices are the columns.
        fixed: The cost of what no slot changes, by metric.
        bounds: The highest cost of the whole, by metric.
        fits: Whether a vector meets the bounds to the last bit: the solver keeps a bound to about 1e-6 only.
        scores: What to minimise, by slot and choice; without them the cost, each metric over its largest entry.
        most_shared: The most entries that two solutions may have in common, at most one less than there are slots.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    columns = [(index, k) for index, slot in enumerate(slots) for k in slot.legal]
    if not columns:
        if fits(()):
            yield ()
        return
    one_each = np.array([[float(slot == index) for slot, _ in columns] for index in range(len(slots))])
    constraints = [LinearConstraint(one_each, 1, 1)]
    weights = np.zeros(len(columns))
    if bounds:
        costs = np.array([[slots[s].costs[m][k] for s, k in columns] for m in bounds], dtype=float)
        room = np.array([bound - fixed.get(m, 0) for m, bound in bounds.items()], dtype=float)
        scale = np.maximum(np.abs(costs).max(axis=1), 1.0)
        weights = (costs / scale[:, None]).sum(axis=0)
        constraints.append(LinearConstraint(costs / scale[:, None], -np.inf, room / scale))
    if scores is not None:
        weights = np.array([scores[column] for column in columns], dtype=float)
        slot_of = np.array([slot for slot, _ in columns])
        weights -= np.array([weights[slot_of == slot].min() for slot in range(len(slots))])[slot_of]
        weights /= max(weights.max(), 1e-300)  # the solver's tolerances are absolute
    shared = len(slots) - 1 if most_shared is None else min(most_shared, len(slots) - 1)
    refused, quick = 0, False

    def solved(options: Mapping[str, float]) -> Any:
        return milp(
            weights,
            integrality=np.ones(len(columns)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options=dict(options),
        )

    while refused < _REFUSED:
        found = solved(_QUICK if quick else _EXACT)
        if quick and found.x is None and found.status != 2:
            found = solved(_EXACT)
        quick = len(columns) > _FEW
        if found.status == 2:  # infeasible: there are no more solutions
            return
        if found.x is None:
            raise RunError(f"the integer program could not be solved: {found.message}", kind="solver")
        taken = found.x > 0.5
        vector = tuple(k for (_, k), here in zip(columns, taken, strict=True) if here)
        fit = fits(vector)
        if fit:
            yield vector
        else:
            refused += 1  # a vector that breaks a bound by less than the solver sees is ruled out by name
        constraints.append(LinearConstraint(taken.astype(float), -np.inf, shared if fit else len(slots) - 1))
