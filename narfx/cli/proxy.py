"""``narfx proxy``: a small data set from a large one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of
from narfx.cli.options import COMMON, OVERWRITE, takes

__all__ = ["proxy"]


@takes({name: option for name, option in COMMON.items() if name != "device"})
def proxy(
    source: Annotated[
        str,
        typer.Argument(help="A folder with one folder for each identity, a .tar of it, or an .npz.", metavar="SOURCE"),
    ],
    out: Annotated[Path, typer.Option(help="A new folder; if SOURCE is an .npz, a new .npz.")],
    identities: Annotated[int, typer.Option(help="The number of identities to draw.")],
    images: Annotated[int, typer.Option(help="Images of each identity, including the held-out ones.")],
    held_out: Annotated[
        int | None, typer.Option(help="Images of each identity held out for validation [a tenth of --images].")
    ] = None,
    overwrite: OVERWRITE = False,
    **options: Any,
) -> None:
    """Draw a small data set from a large one: some identities, some images of each, a part held out for validation."""
    from narfx.data.proxy import build_proxy

    drawn = build_proxy(
        source,
        out,
        identities=identities,
        images=images,
        held_out=held_out,
        seed=options["seed"] or 0,
        overwrite=overwrite,
    )
    output_of(options).result(drawn, tables.proxy)
