"""``narfx solve``: another budget for a search with scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of
from narfx.cli.options import COMMON, OVERWRITE, TRUST, takes

__all__ = ["solve"]


@takes(TRUST, {name: option for name, option in COMMON.items() if name != "seed"})
def solve(
    run: Annotated[Path, typer.Argument(help="The run of a search with --strategy solve.", metavar="RUN")],
    out: Annotated[
        Path, typer.Option(help="The folder for the architecture, or for one folder per budget of a range.")
    ],
    budget: Annotated[
        str, typer.Option(help="As for narfx search; a range gives a front: macs<=0.3x..0.9x,params<=0.8x.")
    ],
    count: Annotated[int, typer.Option(help="Solutions to evaluate for each budget; the best is kept.")] = 1,
    points: Annotated[int, typer.Option(help="The number of budgets in a range.")] = 7,
    overwrite: OVERWRITE = False,
    **options: Any,
) -> None:
    """Answer another budget from the scores of a search, without training."""
    from narfx.verbs.solve import solve as solve_run

    output = output_of(options)
    result = solve_run(
        run, out, budget=budget, count=count, points=points, device=options["device"], overwrite=overwrite,
        reporter=output.reporter,
    )  # fmt: skip
    output.result(result, tables.solve)
