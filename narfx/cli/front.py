"""``narfx front``: the front of a run, and one point of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narfx.cli import front_table
from narfx.cli.console import output_of
from narfx.cli.options import COMMON, OVERWRITE, takes

__all__ = ["front"]


@takes({name: option for name, option in COMMON.items() if name not in ("seed", "device")})
def front(
    run: Annotated[
        Path, typer.Argument(help="The run of a search, a folder of narfx solve, or a front.json.", metavar="RUN")
    ],
    pick: Annotated[
        str | None,
        typer.Option(
            help='One point: its number, knee, or a bound such as "macs<=0.5x" (the most accurate within it).'
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The reference point of the hypervolume, as in accuracy=0.1,macs=1x [accuracy 0, the base's costs]."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder that gets the plot and, with --pick, the point's arch.json with its weights."),
    ] = None,
    overwrite: OVERWRITE = False,
    **options: Any,
) -> None:
    """Show the front of a search beside the base, and pick a point of it."""
    from narfx.verbs.front import describe_front

    result = describe_front(run, out, picked=pick, reference=reference, overwrite=overwrite)
    output_of(options).result(result, front_table.front)
