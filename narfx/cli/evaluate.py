"""``narfx evaluate``: a network or an ONNX file, measured on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of
from narfx.cli.options import COMMON, NETWORK, PAIRS, TASK, TRUST, given, option_names, takes

__all__ = ["evaluate"]


@takes(PAIRS, TASK, {name: NETWORK[name] for name in ("input", "weights")}, TRUST, COMMON)
def evaluate(
    target: Annotated[
        str, typer.Argument(help="An arch.json, a bundle or run, an .onnx file, or a MODEL.", metavar="TARGET")
    ],
    data: Annotated[
        str, typer.Option(help="As for narfx train; or pairs of faces: FILE.bin, or a folder with pairs.txt.")
    ],
    part: Annotated[str | None, typer.Option(help="test, val or train [the first that exists].")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a batch [64].")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16; torch networks only [fp32].")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A JSON file for the result; with pairs it also contains the ROC curve.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --out if it exists.")] = False,
    **options: Any,
) -> None:
    """Evaluate a network or an ONNX file: accuracy on classes, or verification on pairs of faces."""
    from narfx.support.schema import validated
    from narfx.verbs import evaluate as evaluation

    output = output_of(options)
    fields = given(
        {
            "target": target, "data": data, "part": part, "batch_size": batch_size,
            "precision": precision, **options,
        }
    )  # fmt: skip
    result = evaluation.evaluate(
        validated(evaluation.EvaluateConfig, fields, "evaluate", names=option_names(fields)),
        out,
        device=options["device"],
        overwrite=overwrite,
        reporter=output.reporter,
    )
    output.result(result, tables.evaluate)
