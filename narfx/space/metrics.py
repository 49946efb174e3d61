"""What is known of a metric by its name: whether more is better, and how a sentence calls it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Metric", "known_metrics", "metric", "register_metric"]


@dataclass(frozen=True)
class Metric:
    """One number of an evaluated architecture, by its ``name`` in records; ``words`` is what a sentence calls it."""

    name: str
    higher_is_better: bool = False
    words: str = ""

    def gain(self, value: float, other: float) -> float:
        """By how much ``value`` is better than ``other``; negative where it is worse."""
        return value - other if self.higher_is_better else other - value


_METRICS: dict[str, Metric] = {}


def register_metric(found: Metric) -> None:
    """Make a metric known by its name; a later one of the same name replaces it."""
    _METRICS[found.name] = found


def known_metrics() -> tuple[Metric, ...]:
    """All registered metrics, in the order of their registration."""
    return tuple(_METRICS.values())


def metric(name: str) -> Metric:
    """The registered metric; any other name is a cost, of which less is better."""
    return _METRICS.get(name, Metric(name, words=name.replace("_", " ")))


for _known in (
    Metric("accuracy", higher_is_better=True, words="accuracy"),
    Metric("macs", words="MACs"),
    Metric("params", words="parameters"),
    Metric("latency", words="predicted latency"),
):
    register_metric(_known)
