"""Slots and their costs as a notebook shows them."""

from __future__ import annotations

from collections.abc import Sequence

from narfx.space.records import Slot
from narfx.support.html import html_table

__all__ = ["amount", "slot_table"]


def slot_table(title: str, slots: Sequence[Slot], vector: Sequence[int] | None = None) -> str:
    """The slots as a table in HTML; with a ``vector``, what it chooses stands in a column of its own."""
    metrics = tuple(slots[0].costs) if slots else ()
    rows = [
        (
            index,
            slot.name,
            ", ".join(site.name for site in slot.sites),
            ", ".join(f"{k} {slot.choices[k]}" for k in slot.legal),
            *(_span(metric, slot) for metric in metrics),
            *(() if vector is None else (slot.choices[vector[index]],)),
        )
        for index, slot in enumerate(slots)
    ]
    chosen = () if vector is None else ("chosen",)
    return html_table(title, ("slot", "name", "sites", "choices", *metrics, *chosen), rows)


def amount(metric: str, value: float) -> str:
    """A cost as messages write it."""
    return f"{value:.4g} ms" if metric == "latency" else f"{value:,.0f}"


def _span(metric: str, slot: Slot) -> str:
    """The lowest and the highest cost of the legal choices."""
    costs = sorted(slot.costs[metric][k] for k in slot.legal)
    return " to ".join(dict.fromkeys(amount(metric, cost) for cost in (costs[0], costs[-1])))
