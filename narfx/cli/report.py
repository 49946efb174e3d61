"""``narfx report``: one HTML file about a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from narfx.cli.console import output_of
from narfx.cli.options import COMMON, takes

__all__ = ["report"]


@takes({name: option for name, option in COMMON.items() if name not in ("seed", "device")})
def report(
    run: Annotated[
        Path, typer.Argument(help="The run of a search, a training or a comparison; or --out of solve.", metavar="RUN")
    ],
    out: Annotated[Path | None, typer.Option(help="The HTML file [report.html in RUN].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Also write scalars for TensorBoard into RUN/tensorboard, of a run that has none."
        ),
    ] = False,
    **options: Any,
) -> None:
    """Write one HTML file about a run: verdict, figures, network, the command that repeats it. It runs no code."""
    from narfx.report import report as write

    output_of(options).result(write(run, out, overwrite=overwrite, tensorboard=tensorboard), _told)


def _told(result: Mapping[str, Any], console: Console) -> None:
    for warning in result["warnings"]:
        console.print(f"left out: {warning}")
    console.print(result["verdict"])
    console.print(f"\nreport: {result['files']['report']} ({result['bytes'] / 1e6:.2f} MB)")
    if "tensorboard" in result["files"]:
        console.print(f"next: tensorboard --logdir {result['files']['tensorboard']}")
