"""The Pareto front of evaluated architectures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from narfx.space.metrics import known_metrics, metric

__all__ = ["front"]


def front(records: Iterable[Mapping[str, Any]], metrics: Iterable[str] | None = None) -> list[dict[str, Any]]:
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

    def beats(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        gains = [one.gain(a[one.name], b[one.name]) for one in judged]
        return min(gains, default=0) >= 0 and max(gains, default=0) > 0

    kept = [record for record in unique if not any(beats(other, record) for other in unique)]
    first = next((one.name for one in judged if not one.higher_is_better), None)
    return sorted(kept, key=lambda record: (0 if first is None else record[first], *_key(record)))


def _key(record: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple(record["vector"]), tuple(map(tuple, record.get("skips", ())))
