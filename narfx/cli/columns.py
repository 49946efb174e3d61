"""What all tables on the screen share: their look, their numbers, and the line of files below them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["new_table", "number", "print_files"]


def new_table(*columns: str, title: str | None = None) -> Table:
    """A table without a frame: the first column holds names, the others numbers."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return table


def number(value: float | None) -> str:
    """Four significant digits, or an empty cell."""
    return "" if value is None else f"{value:.4g}"


def print_files(result: Mapping[str, Any], console: Console) -> None:
    """The files that were written."""
    console.print("files: " + ", ".join(result["files"].values()), markup=False)
