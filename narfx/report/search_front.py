"""The front of a search: what it evaluated, in the plane of accuracy and each cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from narfx.report.charts import HINT, Dot, front_chart
from narfx.report.common import cost_words
from narfx.report.front_facts import front_facts
from narfx.report.parts import Key, Section
from narfx.report.reading import RunFiles
from narfx.report.results import Evaluated, SearchResult
from narfx.space.front import front

__all__ = ["front_section"]

_KEYS = (
    Key("on the front, or kept", "refined"),
    Key("base", "base"),
    Key("other finalists", "series-5"),
    Key("random and others", "random"),
)
_DAMAGED = (
    "This is not the front of the run: its front.json was changed or cannot be read. It is what the other files of the "
    "run say was evaluated; for each cost a line joins what nothing beats."
)


def front_section(run: RunFiles, result: SearchResult | None) -> Section | None:
    """A figure for each cost; ``None`` where nothing was evaluated."""
    parts: list[Any] = [HINT, *([_DAMAGED] if run.front_damaged else [])]
    least = len(parts)
    for cost in run.front.costs[:3] if run.front is not None else ("macs", "params", "latency"):
        dots = _file_dots(run, cost) if run.front is not None else _result_dots(run, result, cost)
        if not dots:
            continue
        unit = "ms" if cost == "latency" else ""
        title = f"Accuracy against {cost_words(cost)}"
        note = "The front is one point: nothing else that was evaluated beats it in one of the two."
        alone = sum(dot.on_front for dot in dots) == 1
        parts.append(
            front_chart(f"front-{cost}", title, dots, cost_words(cost), unit, keys=_KEYS, note=note if alone else "")
        )
    title = "What was evaluated" if run.front_damaged else "The front"
    return Section("front", title, (*parts, *front_facts(run))) if len(parts) > least else None


def _file_dots(run: RunFiles, cost: str) -> list[Dot]:
    """The points of ``front.json``, its base, and what else was evaluated."""
    assert run.front is not None
    named = [(f"point {index}", point, "refined") for index, point in enumerate(run.front.points, 1)]
    dots = [
        Dot(name, point.costs[cost], point.accuracy, point.standard_error, point.vector, point.skips,
            tuple(point.costs.items()), colour, on_front=name != "base")
        for name, point, colour in (*named, ("base", run.front.base, "base"))
        if point.accuracy is not None and cost in point.costs
    ]  # fmt: skip
    known = {(dot.vector, dot.skips) for dot in dots}
    others = [record for record in run.evaluations if record.key not in known]
    return dots + [dot for record in others if (dot := _dot("evaluated", record, cost)) is not None]


def _result_dots(run: RunFiles, result: SearchResult | None, cost: str) -> list[Dot]:
    """All that a run without a ``front.json`` of this version has evaluated; the front of this cost is found anew."""
    named: list[tuple[str, Evaluated]] = []
    if result is not None:
        named.append(("kept vector", result))
        named += [(f"finalist {index}", record) for index, record in enumerate(result.finalists, 1)]
        named += [(f"random {index}", record) for index, record in enumerate(result.randoms, 1)]
    named += [("evaluated", record) for record in (*run.evaluations, *run.old_front)]
    unique: dict[Any, Dot] = {}
    for name, record in named:
        is_base = not any(record.vector) and not record.skips and name == "evaluated"
        dot = _dot("base" if is_base else name, record, cost)
        if dot is not None:
            unique.setdefault(record.key, dot)
    records = [
        {"vector": dot.vector, "skips": dot.skips or (), "accuracy": dot.accuracy, "cost": dot.cost}
        for dot in unique.values()
    ]
    best = {(tuple(entry["vector"]), tuple(entry["skips"])) for entry in front(records, ("cost", "accuracy"))}
    return [_coloured(dot, (dot.vector, dot.skips or ()) in best) for dot in unique.values()]


def _coloured(dot: Dot, on_front: bool) -> Dot:
    colour = "base" if dot.name == "base" else "refined" if on_front or dot.name == "kept vector" else "random"
    finalist = dot.name.startswith("finalist") and colour == "random"
    return replace(dot, on_front=on_front, colour="series-5" if finalist else colour)


def _dot(name: str, record: Evaluated, cost: str) -> Dot | None:
    costs = record.costs
    if record.accuracy is None or cost not in costs:
        return None
    return Dot(name, costs[cost], record.accuracy, None, record.vector, record.skips, tuple(costs.items()))
