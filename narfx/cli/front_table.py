"""What people see of a front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from narfx.cli.columns import print_files
from narfx.space.metrics import metric
from narfx.space.notebook import amount
from narfx.support.text import count

__all__ = ["front"]

_SHOWN = 24


def front(result: Mapping[str, Any], console: Console) -> None:
    """A row for the base and each point: accuracy, costs and their shares of the base's, vector."""
    base = result["base"]
    costs = list(base.keys() & result["points"][0]["shares"].keys())
    costs.sort(key=lambda name: ([*result["costs"], name].index(name), name))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("point", no_wrap=True)
    for title in (
        result["metric"].replace("_", " "),
        "± s.e.",
        *(c for n in costs for c in (metric(n).words, "of base")),
    ):
        table.add_column(title, justify="right")
    table.add_column("vector")
    for row in (base, *result["points"]):
        name = f"{row['point']}{' knee' if row['point'] == result['knee'] else ''}" if "point" in row else "base"
        table.add_row(name, *_accuracy(row), *(cell for n in costs for cell in _cost(n, row, base)), _vector(row))
    console.print(table)
    volume = result["hypervolume"]
    reference = ", ".join(f"{name} {_value(name, value)}" for name, value in volume["reference"].items())
    console.print(
        f"\nhypervolume {volume['value']:.4f} (reference: {reference}); {count(len(result['points']), 'point')} of "
        f"{count(result['evaluated'], 'vector')} evaluated on {count(result['images'], 'validation image')}",
        markup=False,
    )
    if result["picked"]:
        console.print(f"picked: point {result['picked']['point']}", markup=False)
    for note in result["notes"]:
        console.print(f"note: {note}", markup=False)
    if result["files"]:
        print_files(result, console)
    elif result["picked"]:
        console.print("--out DIR writes its arch.json", markup=False)


def _accuracy(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["accuracy"] is None:
        return "not trained", ""
    error = row["standard_error"]
    return f"{row['accuracy']:.4f}", "" if error is None else f"{error:.4f}"


def _cost(name: str, row: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[str, str]:
    return amount(name, row[name]), f"{row[name] / base[name]:.3f}x" if base[name] else ""


def _value(name: str, value: float) -> str:
    return f"{value:g}" if name == "accuracy" else amount(name, value)


def _vector(row: Mapping[str, Any]) -> str:
    entries = row["vector"]
    short = ",".join(map(str, entries[:_SHOWN])) + (f",… ({len(entries)})" if len(entries) > _SHOWN else "")
    return short + (f" +{count(len(row['skips']), 'skip')}" if "skips" in row else "")
