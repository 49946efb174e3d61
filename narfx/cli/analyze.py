"""``narfx analyze``: one verb for each analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narfx.cli import analyze_tables as analysis_tables
from narfx.cli import instruments
from narfx.cli.console import output_of, parse_input
from narfx.cli.options import COMMON, DATA, NETWORK, SOURCE, TRUST, given, takes
from narfx.errors import UsageError

__all__ = ["analyze"]

analyze = typer.Typer(
    help="Plot the gradients or the rewards from which the strategy of a search learned, or the hypervolume of several "
    "searches; the shape of cells; how alike operators are; the loss around networks, and how they converge.",
    rich_markup_mode=None,
)

Run = Annotated[Path, typer.Argument(help="The run directory of a search.", metavar="RUN")]
Out = Annotated[Path | None, typer.Option(help="The folder for the PNG, the SVG and the numbers [RUN/analysis].")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace the files of an earlier analysis in --out; those in RUN/analysis always are."
    ),
]


@analyze.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        verbs = ", ".join(str(name) for name in typer.main.get_command(analyze).commands)  # type: ignore[attr-defined]
        raise UsageError(f"name an analysis: {verbs} (narfx analyze --help)", kind="usage")


@analyze.command()
@takes(COMMON)
def gradients(run: Run, out: Out = None, overwrite: Overwrite = False, **options: Any) -> None:
    """Plot the gradient magnitude of the operator part and the skip part at each step (Figure 1 of NAR)."""
    from narfx.analysis import gradients as found

    result = found(run, *_where(run, out, overwrite))
    output_of(options).result(result, analysis_tables.gradients)


@analyze.command()
@takes(COMMON)
def rewards(run: Run, out: Out = None, overwrite: Overwrite = False, **options: Any) -> None:
    """Plot the rewards assigned to each operator and each skip (equations 6 to 8 of NAR), and their variances."""
    from narfx.analysis import rewards as found

    result = found(run, *_where(run, out, overwrite))
    output_of(options).result(result, analysis_tables.rewards)


@analyze.command()
@takes(COMMON)
def hypervolume(
    runs: Annotated[
        list[Path],
        typer.Argument(help="The run directories of searches with fronts over the same costs.", metavar="RUN"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder for the PNG, the SVG and the numbers [RUN/analysis; of several runs none]."),
    ] = None,
    overwrite: Overwrite = False,
    **options: Any,
) -> None:
    """Plot the hypervolume of one or several searches against the number of vectors evaluated."""
    from narfx.analysis import hypervolumes as found

    where = _where(runs[0], out, overwrite) if out is not None or len(runs) == 1 else (None, False)
    output_of(options).result(found(runs, *where), analysis_tables.hypervolume)


@analyze.command()
@takes(COMMON)
def cells(
    target: Annotated[
        str,
        typer.Argument(
            help="A published genotype (nasnet, darts_v2, ...), a genotype file, an arch.json or its folder, or a "
            "MODEL.",
            metavar="NAME_OR_FILE_OR_MODEL",
        ),
    ],
    variant: Annotated[
        str | None,
        typer.Option(
            help="Make another genotype of it first: random-connections or random-operators (by --seed), widest or "
            "narrowest."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Make so many random variants, by --seed and the seeds that follow it.")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="The shape of one image: channels,height,width [what the model states].")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="The genotype of a search: by its vector, or by the architecture weights of its last step (darts, "
            "gdas, stacnas)."
        ),
    ] = "vector",
    out: Annotated[
        Path | None, typer.Option(help="The file that gets the genotype as JSON; with --count a folder of files.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    **options: Any,
) -> None:
    """Show the width (in units of c, the channels of a node) and depth of cells and residual blocks."""
    from narfx.analysis import cells as found

    result = found(
        target,
        variant=variant,
        seed=options["seed"] or 0,
        count=count,
        input=None if input is None else parse_input(input),
        by=by,
        out=out,
        overwrite=overwrite,
    )
    output_of(options).result(result, analysis_tables.cells)


@analyze.command()
@takes(NETWORK, DATA, TRUST, COMMON)
def operators(
    target: Annotated[
        str,
        typer.Argument(help="The run directory of a search, or a MODEL (with --data).", metavar="RUN_or_MODEL"),
    ],
    data: SOURCE = None,
    measure: Annotated[
        str,
        typer.Option(help="correlation, channel by channel as in StacNAS, or cka, whatever the order of the channels."),
    ] = "correlation",
    images: Annotated[int, typer.Option(help="Training images that are compared on.")] = 2048,
    groups: Annotated[int | None, typer.Option(help="How many groups to make [by --threshold].")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="The distance, 1 - correlation, at which groups end [0.5].")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder for the PNG, the SVG and the numbers [RUN/analysis; of a MODEL none]."),
    ] = None,
    overwrite: Overwrite = False,
    **options: Any,
) -> None:
    """Show how alike the operators of a supernet are, and the groups of those that are (for stacnas)."""
    from narfx.analysis import operators as found

    folder, replace = (out, overwrite) if not Path(target).is_dir() else _where(Path(target), out, overwrite)
    result = found(
        target,
        folder,
        fields=given({"data": data, **options}),
        measure=measure,
        images=images,
        groups=groups,
        threshold=threshold,
        device=options["device"],
        overwrite=replace,
    )
    output_of(options).result(result, analysis_tables.operators)


analyze.command()(instruments.landscape)
analyze.command()(instruments.variance)
analyze.command()(instruments.convergence)
analyze.command()(instruments.confusion)


def _where(run: Path, out: Path | None, overwrite: bool) -> tuple[Path, bool]:
    """The output folder, and whether its files may be replaced: RUN/analysis holds only files of this command."""
    return (run / "analysis", True) if out is None else (out, overwrite)
