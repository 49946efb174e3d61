"""``narfx apply`` and ``narfx check``: a bundle, written and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of
from narfx.cli.options import COMMON, OVERWRITE, TRUST, WEIGHTS, takes

__all__ = ["apply", "check"]


@takes(WEIGHTS, TRUST, COMMON)
def apply(
    architecture: Annotated[Path, typer.Argument(help="The architecture to build.", metavar="ARCH.JSON")],
    out: Annotated[Path, typer.Option(help="The folder for the bundle.")],
    opset: Annotated[int | None, typer.Option(help="The ONNX opset, at least 13 [torch's own default].")] = None,
    input_name: Annotated[str, typer.Option(help="The name of the input in the ONNX file.")] = "input",
    output_name: Annotated[
        list[str] | None,
        typer.Option(help="The name of an output in the ONNX file; repeat it for each output, in order."),
    ] = None,
    overwrite: OVERWRITE = False,
    **options: Any,
) -> None:
    """Build an architecture's network as model.py, model.safetensors and model.onnx, and verify that they agree."""
    from narfx.bundle import bundle
    from narfx.support.devices import pick_device

    pick_device(options["device"])
    report = bundle.apply(
        architecture, out, weights=options["weights"], overwrite=overwrite, opset=opset, input_name=input_name,
        output_names=output_name, seed=options["seed"] or 0,
    )  # fmt: skip
    output_of(options).result(report, tables.apply)


@takes(TRUST, COMMON)
def check(
    folder: Annotated[Path, typer.Argument(help="A folder written by narfx apply.", metavar="DIR")],
    no_code: Annotated[
        bool,
        typer.Option("--no-code", help="Run no Python of the bundle: compare the ONNX file with the weights only."),
    ] = False,
    **options: Any,
) -> None:
    """Verify a bundle again, from its files alone."""
    from narfx.bundle import bundle
    from narfx.support.devices import pick_device

    pick_device(options["device"])
    report = bundle.check(folder, seed=options["seed"] or 0, code=not no_code)
    output_of(options).result(report, tables.check_without_code if no_code else tables.check)
