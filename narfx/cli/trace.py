"""``narfx trace``: the sites of a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of
from narfx.cli.options import COMMON, LATENCY, MODEL, NETWORK, given, option_names, takes

__all__ = ["trace"]


@takes(NETWORK, LATENCY, COMMON)
def trace(
    model: MODEL,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail (exit code 3) if a part of the model cannot be traced.")
    ] = False,
    latency_check: Annotated[
        int | None,
        typer.Option(
            help="Time this many random networks and compare each with its predicted latency; 8 is a good number."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Show the sites of a model, their operators and costs, and why other convolutions are not sites."""
    from narfx.compiler.open import NetworkOptions
    from narfx.support.devices import pick_device
    from narfx.support.schema import validated
    from narfx.verbs.trace import trace_model

    pick_device(options["device"])
    output = output_of(options)
    fields = given({"model": model, **options})
    seed = fields.pop("seed", 0)
    timing = {name: fields.pop(name) for name in LATENCY if name in fields}
    network = validated(NetworkOptions, fields, "trace", names=option_names(fields))
    report = trace_model(network, timing, latency_check, strict=strict, seed=seed, reporter=output.reporter)
    output.result(report, tables.trace)
