"""The tables of ``fair_judge.py``, in Markdown."""

from __future__ import annotations

from typing import Any

from rank_agreement import REWARDS
from rich import box
from rich.console import Console
from rich.table import Table


def show(result: dict[str, Any]) -> None:
    """The tables, in Markdown."""
    console = Console(width=160, highlight=False)
    alone, images = result["alone"], result["images"]
    console.print(
        f"{len(result['vectors'])} vectors, {images['train']} training and {images['val']} validation images; "
        f"stand-alone accuracy on the {result['part']} part {alone['least']:.4f} to {alone['most']:.4f}, mean "
        f"{alone['mean']:.4f}, standard deviation {alone['deviation']:.4f}"
    )
    if alone["seed_deviation"] is not None:
        console.print(
            f"{alone['repeats']} of them with a second seed: standard deviation of one training "
            f"{alone['seed_deviation']:.4f}, seed-to-seed tau {_number(alone['seed_to_seed_tau'])}"
        )
    judges, differences = Table(box=box.MARKDOWN), Table(box=box.MARKDOWN)
    for column in ("judge", "tau", "95 % interval", "by supernet"):
        judges.add_column(column)
    for column in ("difference", "tau", "95 % interval"):
        differences.add_column(column)
    for name, row in result["judges"].items():
        shown = ", ".join(map(_number, row["by_supernet"])) if name != "macs" else ""
        judges.add_row(_label(name), _number(row["tau"]), _range(row["interval"]), shown)
    for name, row in result["differences"].items():
        first, _, second = name.partition(" - ")
        label = f"{_label(first)} − MACs alone" if second == "macs" else f"separate − {_label(second)}"
        differences.add_row(label, _number(row["tau"]), _range(row["interval"]))
    for part in (judges, differences, *result["verdict"]):
        console.print(part)


def _label(name: str) -> str:
    kind, _, reward = name.partition(" ")
    return "MACs alone" if kind == "macs" else f"{kind}: {REWARDS[reward]}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _range(interval: list[float] | None) -> str:
    return "none" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
