"""``narfx compare``: networks trained alike and compared."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of
from narfx.cli.launch import launch
from narfx.cli.options import COMMON, DATA, OUT, PAIRS, RECIPE, RUN, SOURCE, TEACHER, WEIGHTS, given, takes

__all__ = ["compare"]


@takes(PAIRS, WEIGHTS, DATA, RECIPE, TEACHER, RUN, COMMON)
def compare(
    out: OUT,
    target: Annotated[
        list[str] | None,
        typer.Argument(help="One or more arch.json; NAME=arch.json gives its row a name.", metavar="ARCH.JSON..."),
    ] = None,
    data: SOURCE = None,
    seeds: Annotated[
        int | None, typer.Option(help="Train each network this many times, each with another seed [3].")
    ] = None,
    randoms: Annotated[int | None, typer.Option(help="Random vectors of equal cost for each architecture [8].")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Where the weights start: scratch, inherit (--weights, those of the base), or prepared (the operators "
            "that a search with --strategy solve distilled) [scratch]."
        ),
    ] = None,
    prepared: Annotated[
        str | None,
        typer.Option(help="The run of the search for --init prepared [the folder of the first arch.json]."),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            help="The number of outputs of every network: keep, auto (one for each class), or a number [keep]."
        ),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            help="The shape of one image: channels,height,width; only with it are smaller images enlarged [that of the "
            "architectures]."
        ),
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(
            help="Verify each network on pairs of faces: FILE.bin, or a folder with pairs.txt; needs --task faces."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Train architectures, their bases and random vectors of equal cost by one recipe, and compare their accuracy."""
    from narfx.verbs import compare as comparison

    output = output_of(options)
    fields = given(
        {
            "target": target[0] if target else None, "data": data, "seeds": seeds, "randoms": randoms, "init": init,
            "prepared": prepared, "outputs": outputs, "input": input, "verify": verify, **options,
        }
    )  # fmt: skip
    if target:  # the targets of the command line replace all targets of a config file
        fields |= {"further": target[1:], "names": ()}
    result = launch(
        comparison.CompareConfig, comparison.compare, comparison.resume_compare, comparison.estimate_compare,
        needed="target", out=out, fields=fields, options=options, output=output, extends=False,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else tables.compare)
