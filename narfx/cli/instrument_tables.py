"""How the instruments print their results without ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from narfx.cli.columns import new_table, number, print_files
from narfx.support.text import count

__all__ = ["confusion", "convergence", "plane"]


def _spread(found: Mapping[str, Any]) -> str:
    error = found["standard_error"]
    return number(found["mean"]) + ("" if error is None else f" ± {error:.2g}")


def plane(result: Mapping[str, Any], console: Console) -> None:
    """What was measured on the grid of each network."""
    measured = "loss" if result["measure"] == "loss" else "gradient variance"
    table = new_table("network", f"{measured} at the centre", "lowest", "median", "highest", "not finite", "params")
    for entry in result["networks"]:
        numbers = (number(entry[key]) for key in ("centre", "lowest", "median", "highest"))
        table.add_row(entry["name"], *numbers, str(entry["not_finite"]), f"{entry['params']:,}")
    console.print(table)
    side, reach = len(result["axis"]), result["axis"][-1]
    console.print(
        f"\n{side} x {side} points to {reach:g} in each direction, seed {result['seed']}; "
        f"{count(result['images'], 'image')} ({result['part']} part of {result['data']}); "
        f"{result['batchnorm_in_words']}",
        markup=False,
    )
    print_files(result, console)


def convergence(result: Mapping[str, Any], console: Console) -> None:
    """How fast the loss of each network fell."""
    part = result["part"]
    table = new_table(
        "network", "mean training loss", f"steps to loss {result['level']:.3g}", f"final {part} loss",
        f"final {part} {result['metric'].replace('_', ' ')}", "params", "MACs",
    )  # fmt: skip
    for entry in result["networks"]:
        found = (_spread(entry[key]) for key in ("mean_loss", "steps_to_level", "final_loss", "final_accuracy"))
        table.add_row(entry["name"], *found, f"{entry['params']:,}", f"{entry['macs']:,}")
    console.print(table)
    console.print(
        f"\n{count(result['seeds'], 'seed')}, {count(result['epochs'], 'epoch')}, {count(result['steps'], 'step')}; "
        f"± is the standard error over seeds\n{result['verdict']}",
        markup=False,
    )
    print_files(result, console)


def confusion(result: Mapping[str, Any], console: Console) -> None:
    """The confusion of each network, and which one matches the target."""
    matched = result["target"] is not None
    table = new_table(
        "network", "confusion", "mean cosine", "smallest inner product", "params",
        *(["difference from the target"] if matched else []),
    )  # fmt: skip
    rows = [*result["networks"], *([result["target"]] if matched else [])]
    for entry in rows:
        own = [_spread(entry["distance"])] if "distance" in entry else []
        found = (_spread(entry[key]) for key in ("confusion", "mean_cosine"))
        table.add_row(entry["name"], *found, number(entry["smallest_inner"]), f"{entry['params']:,}", *own)
    console.print(table)
    console.print(
        f"\n{count(result['pairs'], 'pair')} of minibatches of {result['batch_size']} after each of "
        f"{count(result['epochs'], 'epoch')}, {count(result['seeds'], 'seed')}; confusion is minus the smallest cosine "
        "of a pair, the mean over epochs; ± is the standard error over seeds",
        markup=False,
    )
    if result["verdict"]:
        console.print(result["verdict"], markup=False)
    print_files(result, console)
