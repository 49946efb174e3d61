"""The hypervolume of a set of evaluated architectures: how much of the space of results it dominates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from narfx.space.metrics import metric

__all__ = ["hypervolume"]


def hypervolume(records: Iterable[Mapping[str, Any]], reference: Mapping[str, float]) -> float:
    """The volume that the records dominate, up to a reference point (Zitzler and Thiele, 1998).

    A cost counts as its saving, a share of the reference's; a metric of which more is better counts as it is. With an
    accuracy of 0 and the base's costs as the reference, the hypervolume lies between 0 and 1.

    Args:
        records: Descriptions of vectors with a number for each metric of the reference. One that has ``None`` for a
            metric, or is not better than the reference in all of them, dominates nothing.
        reference: The worst value of each metric that counts.

    Raises:
        ValueError: The reference names no metric, or a cost that is not above 0.
    """
    judged = [metric(name) for name in reference]
    scales = [1.0 if one.higher_is_better else float(reference[one.name]) for one in judged]
    if not judged or min(scales) <= 0:
        raise ValueError(f"the reference {dict(reference)} needs at least one metric, and costs above 0")
    points = [
        tuple(
            one.gain(float(record[one.name]), reference[one.name]) / scale
            for one, scale in zip(judged, scales, strict=True)
        )
        for record in records
        if all(record[one.name] is not None for one in judged)
    ]
    return _volume([point for point in points if min(point) > 0])


def _volume(points: Sequence[tuple[float, ...]]) -> float:
    """The volume of the union of the boxes between the origin and each point, slice by slice of the last axis."""
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return max(point[0] for point in points)
    ordered = sorted(points, key=lambda point: -point[-1])
    total = 0.0
    for index, point in enumerate(ordered):
        below = ordered[index + 1][-1] if index + 1 < len(ordered) else 0.0
        if point[-1] > below:
            total += (point[-1] - below) * _volume([other[:-1] for other in ordered[: index + 1]])
    return total
