"""``narfx analyze landscape``, ``variance``, ``convergence`` and ``confusion``: instruments for any network."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from narfx.cli import instrument_tables, tables
from narfx.cli.console import output_of
from narfx.cli.launch import launch
from narfx.cli.options import COMMON, DATA, NETWORK, OUT, RECIPE, RUN, SOURCE, Group, given, takes, whole_numbers

__all__ = ["confusion", "convergence", "landscape", "variance"]

NETWORKS = Annotated[
    list[str] | None,
    typer.Argument(help="Networks: arch.json, bundles, runs or MODELs; NAME=MODEL names one.", metavar="NETWORK..."),
]
TRAINED = Annotated[
    list[str] | None,
    typer.Argument(help="Networks: arch.json files or MODELs; NAME=MODEL names one.", metavar="NETWORK..."),
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


_ALIKE: Group = {
    "seeds": (Annotated[int | None, typer.Option(help="Train each network this many times [3].")], None),
    "input": NETWORK["input"],
}


@takes(_ALIKE, DATA, RECIPE, _RUN, COMMON)
def convergence(out: OUT, networks: TRAINED = None, data: SOURCE = None, **options: Any) -> None:
    """Train networks alike and plot the loss against the steps, with standard errors over the seeds."""
    from narfx.analysis import convergence as found
    from narfx.verbs.alike import AlikeConfig

    output = output_of(options)
    result = launch(
        AlikeConfig, found.converge, found.resume_convergence, found.estimate_convergence, needed="targets", out=out,
        fields=_fields(networks, {"data": data, **options}), options=options, output=output, extends=False,
        shared=False, verb="convergence",
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else instrument_tables.convergence)


@takes(_ALIKE, DATA, RECIPE, _RUN, COMMON)
def confusion(
    out: OUT,
    networks: TRAINED = None,
    data: SOURCE = None,
    depths: Annotated[
        str | None, typer.Option(help="Take the one MODEL at each of these depths: whole numbers joined by commas.")
    ] = None,
    depth_argument: Annotated[
        str | None, typer.Option(help="The argument of the MODEL that is its depth [cells].")
    ] = None,
    mixture: Annotated[
        bool | None,
        typer.Option("--mixture", help="Take the supernet: every site computes the mean of its legal operators."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The network whose confusion shall be matched, for example with 20 cells.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Pairs of minibatches after each epoch [100].")] = None,
    **options: Any,
) -> None:
    """Measure gradient confusion over a short training, and choose the depth that matches a target network's."""
    from narfx.analysis import confusion as found

    output = output_of(options)
    named = {
        "data": data, "depths": whole_numbers(depths, "--depths"), "depth_argument": depth_argument,
        "mixture": mixture, "target": target, "pairs": pairs,
    }  # fmt: skip
    result = launch(
        found.ConfusionConfig, found.confuse, found.resume_confusion, found.estimate_confusion, needed="targets",
        out=out, fields=_fields(networks, {**named, **options}), options=options, output=output, extends=False,
        shared=False,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else instrument_tables.confusion)


def _plane(measure: str, out: Any, networks: list[str] | None, data: str | None, options: dict[str, Any]) -> None:
    from narfx.analysis import planes
    from narfx.analysis.plane_config import PlaneConfig

    output = output_of(options)
    fields = _fields(networks, {"data": data, **options})
    if not options["resume"]:
        fields["measure"] = measure
    result = launch(
        PlaneConfig, planes.look_at_plane, partial(planes.resume_plane, measure=measure), planes.estimate_plane,
        needed="targets", out=out, fields=fields, options=options, output=output, extends=False,
        shared=False, verb="landscape" if measure == "loss" else measure,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else instrument_tables.plane)


def _fields(networks: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """The fields that the user gave; the networks are apart from their names."""
    from narfx.verbs.named_networks import name_networks

    named = name_networks(networks or ())
    own = {"targets": tuple(named.values()), "names": tuple(named)} if named else {}
    return {**own, **given(options)}
