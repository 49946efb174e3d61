"""How the instruments print their results without ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from narfx.support.text import count

__all__ = ["plane"]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _files(result: Mapping[str, Any], console: Console) -> None:
    console.print("files: " + ", ".join(result["files"].values()), markup=False)


def plane(result: Mapping[str, Any], console: Console) -> None:
    """What was measured on the grid of each network."""
    measured = "loss" if result["measure"] == "loss" else "gradient variance"
    table = _table("network", f"{measured} at the centre", "lowest", "median", "highest", "not finite", "params")
    for entry in result["networks"]:
        numbers = (_number(entry[key]) for key in ("centre", "lowest", "median", "highest"))
        table.add_row(entry["name"], *numbers, str(entry["not_finite"]), f"{entry['params']:,}")
    console.print(table)
    side, reach = len(result["axis"]), result["axis"][-1]
    console.print(
        f"\n{side} x {side} points to {reach:g} in each direction, seed {result['seed']}; "
        f"{count(result['images'], 'image')} ({result['part']} part of {result['data']}); "
        f"{result['batchnorm_in_words']}",
        markup=False,
    )
    _files(result, console)
