"""``narfx train``: one network, trained."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of
from narfx.cli.launch import launch
from narfx.cli.options import COMMON, DATA, NETWORK, OUT, RECIPE, RUN, SOURCE, TEACHER, given, takes

__all__ = ["train"]


@takes({name: NETWORK[name] for name in ("input", "weights")}, DATA, RECIPE, TEACHER, RUN, COMMON)
def train(
    out: OUT,
    target: Annotated[
        str | None,
        typer.Argument(help="An arch.json, or a MODEL (its base network is trained).", metavar="ARCH.JSON|MODEL"),
    ] = None,
    data: SOURCE = None,
    base: Annotated[
        bool | None, typer.Option("--base", help="Train the base of the architecture, without its changes.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Where the weights start: inherit (--weights, or those of the architecture) or scratch [inherit]."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Train the network of an architecture, or its base."""
    from narfx.verbs import train as training

    output = output_of(options)
    fields = given({"target": target, "data": data, "base": base, "init": init, **options})
    result = launch(
        training.TrainConfig, training.train, training.resume_train, training.estimate_train, needed="target",
        out=out, fields=fields, options=options, output=output,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else tables.train)
