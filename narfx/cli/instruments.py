"""``narfx analyze landscape``, ``variance``, ``convergence`` and ``confusion``: instruments for any network."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from narfx.cli import instrument_tables, tables
from narfx.cli.console import output_of
from narfx.cli.launch import launch
from narfx.cli.options import COMMON, NETWORK, OUT, RUN, SOURCE, Group, given, takes

__all__ = ["landscape", "variance"]

NETWORKS = Annotated[
    list[str] | None,
    typer.Argument(help="Networks: arch.json, bundles, runs or MODELs; NAME=MODEL names one.", metavar="NETWORK..."),
]
_RUN: Group = {name: option for name, option in RUN.items() if name != "tensorboard"}
_PLANE: Group = {
    "weights": (
        Annotated[
            list[str] | None,
            typer.Option(help="A state dict of a network; once for each network, in their order [their own]."),
        ],
        None,
    ),
    "part": (Annotated[str | None, typer.Option(help="test, val or train [the first that exists].")], None),
    "images": (Annotated[int | None, typer.Option(help="At most so many images of the part [1000].")], None),
    "batch_size": (Annotated[int | None, typer.Option(help="Images in a batch [128].")], None),
    "grid": (Annotated[int | None, typer.Option(help="Points in each direction; odd has the centre [21].")], None),
    "reach": (
        Annotated[
            float | None,
            typer.Option(help="How far the grid goes, in norms of the network's own filters [1.0]."),
        ],
        None,
    ),
    "batchnorm": (
        Annotated[
            str | None,
            typer.Option(help="stored: the statistics of the network's own weights; batch: of each batch [stored]."),
        ],
        None,
    ),
    "memory": (Annotated[float | None, typer.Option(help="Refuse what needs more gigabytes than this [4].")], None),
    "input": NETWORK["input"],
}


@takes(_PLANE, _RUN, COMMON)
def landscape(out: OUT, networks: NETWORKS = None, data: SOURCE = None, **options: Any) -> None:
    """Plot the test loss over a plane of two random, filter-normalised directions (Li et al., arXiv 1712.09913)."""
    _plane("loss", out, networks, data, options)


@takes(_PLANE, _RUN, COMMON)
def variance(out: OUT, networks: NETWORKS = None, data: SOURCE = None, **options: Any) -> None:
    """Plot the variance of the gradient over minibatches over the same plane as landscape (arXiv 1909.09569)."""
    _plane("variance", out, networks, data, options)


def _plane(measure: str, out: Any, networks: list[str] | None, data: str | None, options: dict[str, Any]) -> None:
    from narfx.analysis import planes

    output = output_of(options)
    fields = _fields(networks, {"data": data, **options})
    if not options["resume"]:
        fields["measure"] = measure
    result = launch(
        planes.PlaneConfig, planes.look_at_plane, partial(planes.resume_plane, measure=measure), planes.estimate_plane,
        needed="targets", out=out, fields=fields, options=options, output=output, extends=False,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else instrument_tables.plane)


def _fields(networks: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """The fields that the user gave; the networks are apart from their names."""
    from narfx.verbs.named_networks import name_networks

    named = name_networks(networks or ())
    own = {"targets": tuple(named.values()), "names": tuple(named)} if named else {}
    return {**own, **given(options)}
