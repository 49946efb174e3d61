"""``narfx ops``: the operators, listed and tested."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of
from narfx.cli.options import COMMON, takes

__all__ = ["ops"]

ops = typer.Typer(help="List the operators, or test your own.", no_args_is_help=False, rich_markup_mode=None)


@ops.command("list")
@takes(COMMON)
def ops_list(
    file: Annotated[
        str | None, typer.Argument(help="A file of operators, which are listed too.", metavar="FILE.py")
    ] = None,
    **options: Any,
) -> None:
    """List every operator: its origin, and its cost at a site of 64 channels."""
    from narfx.verbs.ops_list import catalogue

    output_of(options).result(catalogue(file), tables.ops_list)


@ops.command("test")
@takes(COMMON)
def ops_test(
    file: Annotated[
        str | None, typer.Argument(help="A file of operators [narfx's own operators].", metavar="FILE.py")
    ] = None,
    **options: Any,
) -> None:
    """Test operators at many geometries: shape, gradient, cost, copies, ONNX. Exit code 2 if a test fails."""
    from narfx.support.devices import pick_device
    from narfx.verbs.ops_test import try_file

    report = try_file(file, seed=options["seed"] or 0, device=pick_device(options["device"]))
    output_of(options).result(report, tables.ops_test)
    if not report["passed"]:
        raise typer.Exit(2)
