"""The command line: each verb parses, calls and prints; what a verb does is in the package.

Standard output carries results only: tables, or one JSON object with ``--json``. All else goes to standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narfx import tables
from narfx._version import __version__
from narfx.console import Output, parse_input, parse_pairs, run_app
from narfx.errors import UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="narfx",
    help="Refine the operators of a CNN that works: trace it, search cheaper operators, export a proven ONNX file.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="A traceback with an internal error.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Of every random draw [0].")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is not empty, as a whole.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Config = Annotated[Path | None, typer.Option(help="A run's config.json; options given beside it win.")]
Weights = Annotated[str | None, typer.Option(help="A state dict: safetensors, or .pt read with weights_only.")]
Model = Annotated[str, typer.Argument(help="file.py[:factory], module:factory, torchvision:NAME or narfx:NAME.")]
Input = Annotated[str | None, typer.Option(help="One sample: channels,height,width.")]
Granularity = Annotated[str | None, typer.Option(help="conv: a slot a convolution; block: a slot a residual block.")]
Operators = Annotated[str | None, typer.Option(help="The list that vectors index, base first, with commas.")]
CandidateParams = Annotated[
    str | None,
    typer.Option(help="The most parameters of an operator, in those of the site's own call [1.0x]."),
]
First = Annotated[bool | None, typer.Option("--include-first", help="Let the first convolution be refined too.")]
Data = Annotated[str | None, typer.Option(help="digits, a folder, an .npz, torchvision:NAME:ROOT or module:factory.")]
ValData = Annotated[str | None, typer.Option(help="Validation data of their own, in any of these forms.")]
DataFraction = Annotated[float | None, typer.Option(help="The share of the training part that is used [1.0].")]
ValFraction = Annotated[float | None, typer.Option(help="The share held out for validation [0.1].")]
Augment = Annotated[str | None, typer.Option(help="none, crop, flip or crop-flip [what suits the data].")]
BatchSize = Annotated[int | None, typer.Option(help="Images in a training batch [128].")]
Epochs = Annotated[int | None, typer.Option(help="Epochs of training.")]
Lr = Annotated[float | None, typer.Option(help="The highest learning rate of a cycle.")]
LrMin = Annotated[float | None, typer.Option(help="The lowest learning rate of a cycle.")]
T0 = Annotated[int | None, typer.Option(help="Epochs of the first SGDR cycle.")]
Tmult = Annotated[int | None, typer.Option(help="How much longer each further cycle is.")]
WeightDecay = Annotated[float | None, typer.Option(help="On all parameters that a step uses.")]
LabelSmoothing = Annotated[float | None, typer.Option(help="Of the training loss [0].")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise UsageError("name a verb: trace, search, apply, check, train or compare (narfx --help)", kind="usage")


@app.command()
def trace(
    model: Model,
    input: Input = None,
    granularity: Granularity = None,
    operators: Operators = None,
    max_candidate_params: CandidateParams = None,
    include_first: First = None,
    weights: Weights = None,
    strict: Annotated[bool, typer.Option("--strict", help="A part that cannot be traced is an error (3).")] = False,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what of a model can be refined, what cannot and why, and what it costs."""
    from narfx.config import validated
    from narfx.networks import NetworkOptions, open_base
    from narfx.training import pick_device

    pick_device(device)
    values = _given(_network_values(model, input, granularity, operators, max_candidate_params, include_first, weights))
    traced = open_base(validated(NetworkOptions, values, "trace"), seed=seed or 0)
    if strict:
        traced.check_whole()
    Output(json, quiet).result(traced.to_json(), tables.trace)


@app.command()
def search(
    out: Annotated[Path, typer.Option(help="The run directory.")],
    model: Annotated[str | None, typer.Argument(help="See narfx trace; not needed with --resume or --config.")] = None,
    data: Data = None,
    strategy: Annotated[str | None, typer.Option(help="nar, random or evolution [nar].")] = None,
    strategy_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    budget: Annotated[str | None, typer.Option(help="macs<=0.8x, params<=5M, both, or none [macs<=0.8x].")] = None,
    init: Annotated[str | None, typer.Option(help="base (the model's weights) or scratch [base].")] = None,
    epochs: Epochs = None,
    pretrain_epochs: Annotated[int | None, typer.Option(help="Of these, first, on uniform random vectors.")] = None,
    steps: Annotated[int | None, typer.Option(help="Strategy steps behind each epoch.")] = None,
    lot: Annotated[int | None, typer.Option(help="Vectors in one step.")] = None,
    reward_images: Annotated[int | None, typer.Option(help="Validation images of one reward.")] = None,
    finalists: Annotated[int | None, typer.Option(help="Vectors evaluated properly at the end.")] = None,
    randoms: Annotated[int | None, typer.Option(help="Random vectors of equal MACs, at least 8.")] = None,
    norms: Annotated[str | None, typer.Option(help="shared or separate: BatchNorm of a site's operators.")] = None,
    input: Input = None,
    granularity: Granularity = None,
    operators: Operators = None,
    max_candidate_params: CandidateParams = None,
    include_first: First = None,
    weights: Weights = None,
    val_data: ValData = None,
    data_fraction: DataFraction = None,
    val_fraction: ValFraction = None,
    augment: Augment = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    lr_min: LrMin = None,
    t0: T0 = None,
    tmult: Tmult = None,
    weight_decay: WeightDecay = None,
    config: Config = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Search an operator vector on shared weights, within a budget."""
    from narfx.config import validated
    from narfx.search import SearchConfig, run
    from narfx.search import resume as go_on

    output = Output(json, quiet)
    given = {
        **_network_values(model, input, granularity, operators, max_candidate_params, include_first, weights),
        **_data_values(data, val_data, data_fraction, val_fraction, augment, batch_size),
        "strategy": strategy, "strategy_options": parse_pairs(strategy_option, "--strategy-option"),
        "budget": budget, "init": init, "epochs": epochs, "pretrain_epochs": pretrain_epochs, "steps": steps,
        "lot": lot, "reward_images": reward_images, "finalists": finalists, "randoms": randoms, "norms": norms,
        "lr": lr, "lr_min": lr_min, "t0": t0, "tmult": tmult, "weight_decay": weight_decay, "seed": seed,
    }  # fmt: skip
    if resume:
        _resumes(config, overwrite, given)
        result = go_on(out, device=device, reporter=output.reporter)
    else:
        values = _values(config, given, "model", "data")
        result = run(
            validated(SearchConfig, values, "search"),
            out,
            device=device,
            overwrite=overwrite,
            reporter=output.reporter,
        )
    output.result(result, tables.search)


@app.command()
def apply(
    architecture: Annotated[Path, typer.Argument(help="An arch.json.", metavar="ARCH.JSON")],
    out: Annotated[Path, typer.Option(help="The folder of the bundle.")],
    weights: Weights = None,
    opset: Annotated[int | None, typer.Option(help="The ONNX opset [torch's default].")] = None,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Lower an architecture and write model.py, model.safetensors and model.onnx, proven to compute the same."""
    from narfx import bundle
    from narfx.training import pick_device

    pick_device(device)
    report = bundle.apply(architecture, out, weights=weights, overwrite=overwrite, opset=opset, seed=seed or 0)
    Output(json, quiet).result(report, tables.apply)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A folder that apply wrote.", metavar="DIR")],
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Prove a bundle again, from its files alone."""
    from narfx import bundle
    from narfx.training import pick_device

    pick_device(device)
    Output(json, quiet).result(bundle.check(folder, seed=seed or 0), tables.check)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The run directory.")],
    target: Annotated[
        str | None, typer.Argument(help="An arch.json, or a MODEL (its base network).", metavar="ARCH.JSON|MODEL")
    ] = None,
    data: Data = None,
    base: Annotated[bool | None, typer.Option("--base", help="Train the base of the architecture instead.")] = None,
    init: Annotated[str | None, typer.Option(help="inherit (the weights given) or scratch [inherit].")] = None,
    weights: Weights = None,
    input: Input = None,
    epochs: Epochs = None,
    val_data: ValData = None,
    data_fraction: DataFraction = None,
    val_fraction: ValFraction = None,
    augment: Augment = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    lr_min: LrMin = None,
    t0: T0 = None,
    tmult: Tmult = None,
    weight_decay: WeightDecay = None,
    label_smoothing: LabelSmoothing = None,
    config: Config = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train the network of an architecture, or its base, by itself."""
    from narfx import experiments
    from narfx.config import validated

    output = Output(json, quiet)
    given = {
        "target": target, "base": base, "init": init, "weights": weights, "input": parse_input(input),
        **_data_values(data, val_data, data_fraction, val_fraction, augment, batch_size),
        **_recipe_values(epochs, lr, lr_min, t0, tmult, weight_decay, label_smoothing), "seed": seed,
    }  # fmt: skip
    if resume:
        _resumes(config, overwrite, given)
        result = experiments.resume_train(out, device=device, reporter=output.reporter)
    else:
        values = _values(config, given, "target", "data")
        result = experiments.train(
            validated(experiments.TrainConfig, values, "train"),
            out,
            device=device,
            overwrite=overwrite,
            reporter=output.reporter,
        )
    output.result(result, tables.train)


@app.command()
def compare(
    out: Annotated[Path, typer.Option(help="The run directory.")],
    target: Annotated[str | None, typer.Argument(help="An arch.json.", metavar="ARCH.JSON")] = None,
    data: Data = None,
    seeds: Annotated[int | None, typer.Option(help="How often each network is trained [3].")] = None,
    randoms: Annotated[int | None, typer.Option(help="Random vectors of equal MACs [8].")] = None,
    init: Annotated[str | None, typer.Option(help="scratch, or inherit (from the base's weights) [scratch].")] = None,
    weights: Weights = None,
    epochs: Epochs = None,
    val_data: ValData = None,
    data_fraction: DataFraction = None,
    val_fraction: ValFraction = None,
    augment: Augment = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    lr_min: LrMin = None,
    t0: T0 = None,
    tmult: Tmult = None,
    weight_decay: WeightDecay = None,
    label_smoothing: LabelSmoothing = None,
    config: Config = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train base, refined and random vectors of equal cost by one recipe, and show them side by side."""
    from narfx import comparison
    from narfx.config import validated

    output = Output(json, quiet)
    given = {
        "target": target, "seeds": seeds, "randoms": randoms, "init": init, "weights": weights,
        **_data_values(data, val_data, data_fraction, val_fraction, augment, batch_size),
        **_recipe_values(epochs, lr, lr_min, t0, tmult, weight_decay, label_smoothing), "seed": seed,
    }  # fmt: skip
    if resume:
        _resumes(config, overwrite, given)
        result = comparison.resume_compare(out, device=device, reporter=output.reporter)
    else:
        values = _values(config, given, "target", "data")
        result = comparison.compare(
            validated(comparison.CompareConfig, values, "compare"),
            out,
            device=device,
            overwrite=overwrite,
            reporter=output.reporter,
        )
    output.result(result, tables.compare)


def _network_values(
    model: str | None,
    input: str | None,
    granularity: str | None,
    operators: str | None,
    max_candidate_params: str | None,
    include_first: bool | None,
    weights: str | None,
) -> dict[str, Any]:
    return {
        "model": model,
        "input": parse_input(input),
        "granularity": granularity,
        "operators": tuple(name.strip() for name in operators.split(",")) if operators else None,
        "max_candidate_params": max_candidate_params.removesuffix("x") if max_candidate_params else None,
        "include_first": include_first,
        "weights": weights,
    }


def _data_values(
    data: str | None,
    val_data: str | None,
    data_fraction: float | None,
    val_fraction: float | None,
    augment: str | None,
    batch_size: int | None,
) -> dict[str, Any]:
    return {
        "data": data,
        "val_data": val_data,
        "data_fraction": data_fraction,
        "val_fraction": val_fraction,
        "augment": augment,
        "batch_size": batch_size,
    }


def _recipe_values(
    epochs: int | None,
    lr: float | None,
    lr_min: float | None,
    t0: int | None,
    tmult: int | None,
    weight_decay: float | None,
    label_smoothing: float | None,
) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "lr": lr,
        "lr_min": lr_min,
        "t0": t0,
        "tmult": tmult,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
    }


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Only what the user gave: the rest has its default in the record that the values are for."""
    return {key: value for key, value in values.items() if value not in (None, {})}


def _values(config: Path | None, given: dict[str, Any], *needed: str) -> dict[str, Any]:
    """The options that were given over those of a config file, whose paths are made to start at the working folder."""
    from narfx.files import read_json
    from narfx.paths import move, move_model, move_source

    values: dict[str, Any] = {}
    if config is not None:
        values = read_json(config)
        if not isinstance(values, dict):
            raise UsageError(f"{config} is not a JSON object", where=str(config), kind="bad_config")
        moves = {
            "model": move_model,
            "target": move_model,
            "weights": move,
            "data": move_source,
            "val_data": move_source,
        }
        for key, moved in moves.items():
            if isinstance(values.get(key), str) and key not in _given(given):
                values[key] = moved(values[key], Path.cwd(), start=config.parent)
    values = values | _given(given)
    for key in needed:
        if key not in values:
            option = "--data SOURCE" if key == "data" else "a MODEL" if key == "model" else "an arch.json"
            raise UsageError(f"{option} is missing", where=key, kind="missing_option")
    return values


def _resumes(config: Path | None, overwrite: bool, given: dict[str, Any]) -> None:
    """Refuse options that a resumed run would not heed."""
    named = [*(["--config"] if config else []), *(["--overwrite"] if overwrite else []), *_given(given)]
    if named:
        raise UsageError(
            f"--resume takes all from the run in --out: leave out {', '.join(named)}",
            where="--resume",
            kind="resume_options",
        )


def main() -> None:
    """The ``narfx`` command."""
    raise SystemExit(run_app(app))
