"""The Pareto front of evaluated architectures, and a few of many that are spread over their costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from narfx.space.metrics import known_metrics, metric

__all__ = ["front", "front_candidates", "scaled", "spread"]

Record = Mapping[str, Any]
R = TypeVar("R", bound=Record)


def front(records: Iterable[Record], metrics: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The records that no other one beats: at least as good in every metric, and better in one.

    Args:
        records: Descriptions of vectors with a number for each metric. One that has ``None`` for a metric was not
            evaluated, and is left out.
        metrics: Their names. :func:`~narfx.space.metrics.register_metric` says in which direction one is better; a name
            that is not registered is a cost. By default the registered metrics that all records have.

    Returns:
        The front, each vector once, by the first metric in which less is better, then by the vector.
    """
    unique = list({_key(record): dict(record) for record in records}.values())
    names = [known.name for known in known_metrics()] if metrics is None else list(metrics)
    if metrics is None:
        names = [name for name in names if all(name in record for record in unique)]
    judged = [metric(name) for name in names]
    unique = [record for record in unique if all(record[one.name] is not None for one in judged)]
    gains = {id(record): tuple(one.gain(record[one.name], 0) for one in judged) for record in unique}
    kept: list[dict[str, Any]] = []
    # What beats a record stands before it in this order, and is beaten by nothing or by one that stands there too.
    for record in sorted(unique, key=lambda record: gains[id(record)], reverse=True):
        own = gains[id(record)]
        if not any(gains[id(other)] != own and _covers(gains[id(other)], own) for other in kept):
            kept.append(record)
    first = next((one.name for one in judged if not one.higher_is_better), None)
    return sorted(kept, key=lambda record: (0 if first is None else record[first], *_key(record)))


def front_candidates(records: Iterable[Record], costs: Sequence[str], n: int) -> list[dict[str, Any]]:
    """At most ``n`` records that may be on the front, where their ``accuracy`` is only an estimate.

    The front by accuracy and ``costs`` comes first, then the front of what is left, and so on: an unlucky estimate
    does not shut a vector out. Of the front that no longer fits as a whole, those far from the rest are taken.
    """
    left = [dict(record) for record in records]
    chosen: list[dict[str, Any]] = []
    while left and len(chosen) < n:
        layer = front(left, ("accuracy", *costs))
        if not layer:
            break
        taken = {_key(record) for record in layer}
        left = [record for record in left if _key(record) not in taken]
        chosen += spread(layer, n - len(chosen), costs, beside=chosen)
    return chosen


def spread(records: Sequence[R], n: int, costs: Sequence[str], *, beside: Sequence[Record] = ()) -> list[R]:
    """At most ``n`` of the records, far from each other in their costs, in the order of the records.

    Each cost is scaled to the range that it has here. The first one taken is the cheapest in the first cost, each
    further one the one farthest from all that are taken and from those ``beside``; a single one is the most central.
    """
    if n >= len(records):
        return list(records)
    everything: list[Record] = [*records, *beside]
    points = list(zip(*(scaled([float(record[name]) for record in everything]) for name in costs), strict=True))
    places, taken = points[: len(records)], points[len(records) :]
    chosen: list[int] = []
    if n == 1 and not beside:
        return [records[min(range(len(records)), key=lambda i: math.dist(places[i], [0.5] * len(costs)))]]
    while len(chosen) < n:
        free = [index for index in range(len(records)) if index not in chosen]
        if taken:
            pick = max(free, key=lambda index: (min(math.dist(places[index], other) for other in taken), -index))
        else:
            pick = min(free, key=lambda index: (*places[index][:1], index))
        chosen.append(pick)
        taken.append(places[pick])
    return [records[index] for index in sorted(chosen)]


def scaled(values: Sequence[float]) -> list[float]:
    """The values from 0 for the least to 1 for the most; 0 where all are equal."""
    low, width = min(values), max(values) - min(values)
    return [(value - low) / width if width else 0.0 for value in values]


def _covers(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True))


def _key(record: Record) -> tuple[tuple[Any, ...], ...]:
    return tuple(record["vector"]), tuple(map(tuple, record.get("skips", ())))
