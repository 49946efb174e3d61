"""The Pareto front of evaluated architectures."""

from __future__ import annotations

from typing import Any

__all__ = ["front"]


def front(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that no other one beats in accuracy and every cost at once, those of fewest MACs first."""
    unique = list({_key(record): record for record in records}.values())

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        costs = [b[metric] - a[metric] for metric in ("macs", "params", "latency") if metric in a]
        gains = [a["accuracy"] - b["accuracy"], *costs]
        return bool(min(gains) >= 0 and max(gains) > 0)

    kept = [record for record in unique if not any(beats(other, record) for other in unique)]
    return sorted(kept, key=lambda record: (record["macs"], *_key(record)))


def _key(record: dict[str, Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple(record["vector"]), tuple(map(tuple, record.get("skips", ())))
