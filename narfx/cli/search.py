"""``narfx search``: a search, started or resumed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from narfx.cli import tables
from narfx.cli.console import output_of, parse_pairs
from narfx.cli.launch import launch
from narfx.cli.options import COMMON, DATA, LATENCY, NETWORK, OUT, RECIPE, RUN, SOURCE, given, takes

__all__ = ["search"]


def _strategies() -> list[str]:
    """The names that the strategies register in their modules, read there because an import takes seconds."""
    folder = Path(__file__).parents[1] / "search" / "strategies"
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.py")]
    return sorted(name for text in texts for name in re.findall(r'^register_strategy\("(\w+)"', text, re.MULTILINE))


@takes(
    NETWORK, LATENCY, DATA, {name: option for name, option in RECIPE.items() if name != "label_smoothing"}, RUN, COMMON
)
def search(
    out: OUT,
    model: Annotated[
        str | None, typer.Argument(help="The model, as for narfx trace; optional with --resume or --config.")
    ] = None,
    data: SOURCE = None,
    strategy: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(_strategies())} [solve where --weights are given, else nar]."),
    ] = None,
    strategy_option: Annotated[
        list[str] | None, typer.Option(help="An option of the strategy, KEY=VALUE; may be repeated.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Upper bounds, joined by commas: macs<=0.8x, params<=5M, latency<=5ms; or none [macs<=0.8x]."
        ),
    ] = None,
    front: Annotated[
        str | None,
        typer.Option(
            help="End with a front over these costs, joined by commas: macs, params, latency; with it the default "
            "budget is none."
        ),
    ] = None,
    front_points: Annotated[
        int | None, typer.Option(help="Vectors of those it tried that are evaluated for the front, at most [20].")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Where the shared weights start: base (the model's weights) or scratch [base].")
    ] = None,
    prepare: Annotated[
        str | None,
        typer.Option(
            help="How the operators are prepared: uniform (training on random architectures), or distil (each learns "
            "the base's features at its site) [distil for solve and, where --weights are given, with --front and for "
            "ddas and nsga2; else uniform]."
        ),
    ] = None,
    pretrain_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of the preparation, included in --epochs [2 for distil and solve, 0 for darts, gdas and "
            "stacnas, else 3, at most --epochs - 1]."
        ),
    ] = None,
    distil_lr: Annotated[
        float | None, typer.Option(help="The highest learning rate of --prepare distil [0.002].")
    ] = None,
    distil_compare: Annotated[
        str | None,
        typer.Option(
            help="What --prepare distil compares: output, or standardised (no scale, no shift) [standardised]."
        ),
    ] = None,
    score_images: Annotated[
        int | None, typer.Option(help="Training images on which solve measures an architecture [2048].")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Strategy steps after each epoch [50].")] = None,
    proposals: Annotated[
        int | None, typer.Option("--proposals", "--lot", help="Vectors evaluated in one step of the strategy [5].")
    ] = None,
    reward_images: Annotated[int | None, typer.Option(help="Validation images for one reward [256].")] = None,
    reuse_memory: Annotated[
        int | None,
        typer.Option(help="MB of what architectures have in common, kept to be computed once; 0: nothing is [1024]."),
    ] = None,
    finalists: Annotated[
        int | None, typer.Option(help="Vectors evaluated with recalibrated BatchNorm at the end [10].")
    ] = None,
    randoms: Annotated[
        int | None, typer.Option(help="Random vectors of equal cost, evaluated for comparison; at least 8 [8].")
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(help="Training images for BatchNorm's statistics in the evaluations [512].")
    ] = None,
    evaluation_share: Annotated[
        float | None,
        typer.Option(
            help="The most that the evaluations at the end may take of all forward passes: a short search evaluates "
            "on fewer images; 1: always on all [0.1]."
        ),
    ] = None,
    norms: Annotated[
        str | None,
        typer.Option(
            help="The operators of a site share one BatchNorm, or have one each: shared or separate [shared]."
        ),
    ] = None,
    quick: Annotated[
        bool | None,
        typer.Option(
            "--quick", help="A first look, not a result: 4 epochs of 10 steps, at most 2,000 training images."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Search the operators of a model by training shared weights, within a budget."""
    from narfx import search as searching

    output = output_of(options)
    fields = given(
        {
            "model": model, "data": data, "strategy": strategy,
            "strategy_options": parse_pairs(strategy_option, "--strategy-option"), "budget": budget, "init": init,
            "front": front, "front_points": front_points,
            "pretrain_epochs": pretrain_epochs, "steps": steps, "proposals": proposals, "reward_images": reward_images,
            "reuse_memory": reuse_memory,
            "finalists": finalists, "randoms": randoms, "calibration_images": calibration_images,
            "evaluation_share": evaluation_share, "norms": norms, "prepare": prepare, "distil_lr": distil_lr,
            "distil_compare": distil_compare, "score_images": score_images, "quick": quick, **options,
        }
    )  # fmt: skip
    result = launch(
        searching.SearchConfig, searching.run, searching.resume, searching.estimate_search, needed="model", out=out,
        fields=fields, options=options, output=output,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else tables.search)
