"""What people see of an analysis: tables and the files it drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from narfx.cli.columns import new_table, number, print_files
from narfx.support.text import count

__all__ = ["cells", "gradients", "hypervolume", "operators", "rewards"]


def _end(result: Mapping[str, Any], console: Console) -> None:
    console.print(f"\n{result['run']}: strategy {result['strategy']}, {count(result['steps'], 'step')}", markup=False)
    if "files" in result:
        print_files(result, console)


def gradients(result: Mapping[str, Any], console: Console) -> None:
    """The gradient of each part: magnitude, spread and smoothness."""
    table = new_table("gradient of", "steps", "decisions", "mean", "std / mean", "lag-1 autocorr.", "mean a decision")
    for part, found in result["parts"].items():
        numbers = (found[key] for key in ("mean", "std_over_mean", "lag1", "mean_per_decision"))
        table.add_row(part, str(found["steps"]), str(found["decisions"]), *map(number, numbers))
    console.print(table)
    _end(result, console)


def rewards(result: Mapping[str, Any], console: Console) -> None:
    """The assigned rewards of each part: how much they vary, and over what."""
    table = new_table(
        "assigned rewards of", "mean", "variance over samples", "std / mean", "variance over depth", "std / mean",
        "std / mean over steps", "lag-1 autocorr.",
    )  # fmt: skip
    for part, found in result["parts"].items():
        samples, depth = found["over_samples"], found["over_depth"]
        numbers = (
            found["mean"], samples["variance"], samples["relative"], depth["variance"], depth["relative"],
            found["std_over_mean"], found["lag1"],
        )  # fmt: skip
        table.add_row(part, *map(number, numbers))
    console.print(table)
    _end(result, console)


def hypervolume(result: Mapping[str, Any], console: Console) -> None:
    """A row for each run: its hypervolume once so many vectors were evaluated, and at the end."""
    table = new_table(
        "strategy", "steps", "evaluated", *(f"after {n:,}" for n in result["counts"]), "at the end", "run"
    )
    for found in result["runs"]:
        numbers = (f"{value:.4f}" for value in (*found["after"], found["end"]))
        table.add_row(found["strategy"], str(found["steps"]), str(found["evaluations"]), *numbers, found["run"])
    console.print(table)
    costs = ", ".join(result["costs"])
    console.print(f"\nhypervolume over {costs} of the rewards of minibatches, after distinct vectors", markup=False)
    for note in result["notes"]:
        console.print(f"note: {note}", markup=False)
    if "files" in result:
        print_files(result, console)
    else:
        console.print("--out DIR draws the curves", markup=False)


def cells(result: Mapping[str, Any], console: Console) -> None:
    """Width and depth of each cell and block, and the genotype."""
    if "genotypes" in result:
        _many_cells(result, console)
        return
    table = new_table("cell or block", "width", "depth")
    rows = [{"name": kind, **result[kind]} for kind in ("normal", "reduce") if kind in result]
    for row in [*rows, *result.get("cells", ()), *result.get("blocks", ())]:
        kind = f" ({row['kind']})" if row.get("kind") else ""
        table.add_row(f"{row['name']}{kind}", f"{row['width']:g}c", str(row["depth"]))
    console.print(table)
    if "genotype" in result:
        console.print()
        for kind in ("normal", "reduce"):
            edges = " ".join(f"{name}:{source}" for name, source in result["genotype"][kind])
            nodes = " ".join(map(str, result["genotype"][f"{kind}_concat"]))
            console.print(f"{kind}: {edges}; output {nodes}", markup=False)
    if "file" in result:
        console.print(f"\nfile: {result['file']}", markup=False)


def operators(result: Mapping[str, Any], console: Console) -> None:
    """How alike operators are, the groups, and how stacnas is told of them."""
    names = result["operators"]
    table = new_table(result["measure"], *(f"[{index}]" for index in range(1, len(names) + 1)))
    for index, (name, row) in enumerate(zip(names, result["likeness"], strict=True), 1):
        table.add_row(f"[{index}] {name}", *("" if value is None else f"{value:.2f}" for value in row))
    console.print(table, markup=False)
    console.print(f"\n{count(result['sites'], 'site')}, {count(result['images'], 'image')}, the supernet "
                  f"{result['supernet']}", markup=False)  # fmt: skip
    for group in result["groups"]:
        console.print(f"group: {', '.join(group)}", markup=False)
    console.print(f"for a search: --strategy stacnas --strategy-option {result['option']}", markup=False)
    if "files" in result:
        print_files(result, console)


def _many_cells(result: Mapping[str, Any], console: Console) -> None:
    """Width and depth of each random variant."""
    table = new_table("seed", "normal: width", "depth", "reduce: width", "depth", "file")
    for row in result["genotypes"]:
        shapes = [
            text for kind in ("normal", "reduce") for text in (f"{row[kind]['width']:g}c", f"{row[kind]['depth']}")
        ]
        table.add_row(str(row["seed"]), *shapes, row.get("file", ""))
    console.print(table)
