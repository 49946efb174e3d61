"""The command line: each verb parses, calls and prints; what a verb does is in the package.

Standard output carries results only: tables, or one JSON object with ``--json``. All else goes to standard error.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from narfx._version import __version__
from narfx.cli import tables
from narfx.cli.analyze import analyze
from narfx.cli.console import Output, parse_pairs, run_app
from narfx.cli.launch import launch
from narfx.cli.options import (  # fmt: skip
    COMMON,
    DATA,
    LATENCY,
    MODEL,
    NETWORK,
    RECIPE,
    RUN,
    TASK,
    WEIGHTS,
    given,
    takes,
)
from narfx.errors import UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="narfx",
    help="Refine the operators of a CNN that works: trace it, search cheaper operators, export a proven ONNX file.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ops = typer.Typer(help="Operators: list them, test your own.", no_args_is_help=False, rich_markup_mode=None)
app.add_typer(ops, name="ops")
app.add_typer(analyze, name="analyze")

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is not empty, as a whole.")]
Out = Annotated[Path, typer.Option(help="The run directory.")]
Data = Annotated[
    str | None, typer.Option(help="digits, a folder, a .tar, an .npz, torchvision:NAME:ROOT or module:factory.")
]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        verbs = ", ".join(str(name) for name in typer.main.get_command(app).commands)  # type: ignore[attr-defined]
        raise UsageError(f"name a verb: {verbs} (narfx --help)", kind="usage")


@app.command()
@takes(NETWORK, LATENCY, COMMON)
def trace(
    model: MODEL,
    strict: Annotated[bool, typer.Option("--strict", help="A part that cannot be traced is an error (3).")] = False,
    latency_check: Annotated[
        int | None, typer.Option(help="Time this many random vectors whole beside their predictions; 8 is fair.")
    ] = None,
    **options: Any,
) -> None:
    """Show what of a model can be refined, what cannot and why, and what it costs."""
    from narfx.compiler.open import NetworkOptions
    from narfx.support.devices import pick_device
    from narfx.support.schema import validated
    from narfx.verbs.trace import trace_model

    pick_device(options["device"])
    output = _output(options)
    fields = given({"model": model, **options})
    seed = fields.pop("seed", 0)
    timing = {name: fields.pop(name) for name in LATENCY if name in fields}
    network = validated(NetworkOptions, fields, "trace")
    report = trace_model(network, timing, latency_check, strict=strict, seed=seed, reporter=output.reporter)
    output.result(report, tables.trace)


@app.command()
@takes(
    NETWORK, LATENCY, DATA, {name: option for name, option in RECIPE.items() if name != "label_smoothing"}, RUN, COMMON
)
def search(
    out: Out,
    model: Annotated[str | None, typer.Argument(help="See narfx trace; not needed with --resume or --config.")] = None,
    data: Data = None,
    strategy: Annotated[str | None, typer.Option(help="nar, enas, alternating, evolution or random [nar].")] = None,
    strategy_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="macs<=0.8x, params<=5M, latency<=5ms, several, or none [macs<=0.8x].")
    ] = None,
    init: Annotated[str | None, typer.Option(help="base (the model's weights) or scratch [base].")] = None,
    pretrain_epochs: Annotated[
        int | None,
        typer.Option(help="Of these, first, on uniform random vectors [3, or all epochs but one]."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Strategy steps behind each epoch.")] = None,
    lot: Annotated[int | None, typer.Option(help="Vectors in one step.")] = None,
    reward_images: Annotated[int | None, typer.Option(help="Validation images of one reward.")] = None,
    finalists: Annotated[int | None, typer.Option(help="Vectors evaluated properly at the end.")] = None,
    randoms: Annotated[int | None, typer.Option(help="Random vectors of equal cost, at least 8.")] = None,
    norms: Annotated[str | None, typer.Option(help="shared or separate: BatchNorm of a site's operators.")] = None,
    **options: Any,
) -> None:
    """Search an operator vector on shared weights, within a budget."""
    from narfx import search as searching

    output = _output(options)
    fields = given(
        {
            "model": model, "data": data, "strategy": strategy,
            "strategy_options": parse_pairs(strategy_option, "--strategy-option"), "budget": budget, "init": init,
            "pretrain_epochs": pretrain_epochs, "steps": steps, "lot": lot, "reward_images": reward_images,
            "finalists": finalists, "randoms": randoms, "norms": norms, **options,
        }
    )  # fmt: skip
    result = launch(
        searching.SearchConfig, searching.run, searching.resume, needed="model", out=out, fields=fields,
        options=options, output=output,
    )  # fmt: skip
    output.result(result, tables.search)


@app.command()
@takes(WEIGHTS, COMMON)
def apply(
    architecture: Annotated[Path, typer.Argument(help="An arch.json.", metavar="ARCH.JSON")],
    out: Annotated[Path, typer.Option(help="The folder of the bundle.")],
    opset: Annotated[
        int | None, typer.Option(help="The ONNX opset, at least 13 [the one that torch writes by itself].")
    ] = None,
    input_name: Annotated[str, typer.Option(help="The name of the ONNX file's input.")] = "input",
    output_name: Annotated[list[str] | None, typer.Option(help="Of an output; once for each, in order.")] = None,
    overwrite: Overwrite = False,
    **options: Any,
) -> None:
    """Lower an architecture and write model.py, model.safetensors and model.onnx, proven to compute the same."""
    from narfx.bundle import bundle
    from narfx.support.devices import pick_device

    pick_device(options["device"])
    report = bundle.apply(
        architecture, out, weights=options["weights"], overwrite=overwrite, opset=opset, input_name=input_name,
        output_names=output_name, seed=options["seed"] or 0,
    )  # fmt: skip
    _output(options).result(report, tables.apply)


@app.command()
@takes(COMMON)
def check(
    folder: Annotated[Path, typer.Argument(help="A folder that apply wrote.", metavar="DIR")], **options: Any
) -> None:
    """Prove a bundle again, from its files alone."""
    from narfx.bundle import bundle
    from narfx.support.devices import pick_device

    pick_device(options["device"])
    _output(options).result(bundle.check(folder, seed=options["seed"] or 0), tables.check)


@app.command()
@takes({name: NETWORK[name] for name in ("input", "weights")}, DATA, RECIPE, RUN, COMMON)
def train(
    out: Out,
    target: Annotated[
        str | None, typer.Argument(help="An arch.json, or a MODEL (its base network).", metavar="ARCH.JSON|MODEL")
    ] = None,
    data: Data = None,
    base: Annotated[bool | None, typer.Option("--base", help="Train the base of the architecture instead.")] = None,
    init: Annotated[str | None, typer.Option(help="inherit (the weights given) or scratch [inherit].")] = None,
    **options: Any,
) -> None:
    """Train the network of an architecture, or its base, by itself."""
    from narfx.verbs import train as training

    output = _output(options)
    fields = given({"target": target, "data": data, "base": base, "init": init, **options})
    result = launch(
        training.TrainConfig, training.train, training.resume_train, needed="target", out=out, fields=fields,
        options=options, output=output,
    )  # fmt: skip
    output.result(result, tables.train)


@app.command()
@takes(WEIGHTS, DATA, RECIPE, RUN, COMMON)
def compare(
    out: Out,
    target: Annotated[
        list[str] | None, typer.Argument(help="Each an arch.json, or NAME=arch.json.", metavar="ARCH.JSON...")
    ] = None,
    data: Data = None,
    seeds: Annotated[int | None, typer.Option(help="How often each network is trained [3].")] = None,
    randoms: Annotated[int | None, typer.Option(help="Random vectors of equal MACs for each [8].")] = None,
    init: Annotated[str | None, typer.Option(help="scratch, or inherit (from the base's weights) [scratch].")] = None,
    outputs: Annotated[
        str | None, typer.Option(help="keep, auto (one a class), or a number: outputs of every network [keep].")
    ] = None,
    input: Annotated[str | None, typer.Option(help="channels,height,width [the architectures' own].")] = None,
    verify: Annotated[
        str | None, typer.Option(help="Pairs of faces: a .bin, or a folder with pairs.txt; with --task faces.")
    ] = None,
    pairs: Annotated[str | None, typer.Option(help="The list of pairs of a folder [pairs.txt in it].")] = None,
    folds: Annotated[int | None, typer.Option(help="Of the pairs [as many as the list says, else 10].")] = None,
    **options: Any,
) -> None:
    """Train architectures, their bases and random vectors of equal cost by one recipe, and show them side by side."""
    from narfx.verbs import compare as comparison

    output = _output(options)
    fields = given(
        {
            "target": target[0] if target else None, "data": data, "seeds": seeds, "randoms": randoms, "init": init,
            "outputs": outputs, "input": input, "verify": verify, "pairs": pairs, "folds": folds, **options,
        }
    )  # fmt: skip
    if target:  # all targets replace all those of a config file
        fields |= {"further": target[1:], "names": ()}
    result = launch(
        comparison.CompareConfig, comparison.compare, comparison.resume_compare, needed="target", out=out,
        fields=fields, options=options, output=output,
    )  # fmt: skip
    output.result(result, tables.compare)


@ops.command("list")
@takes(COMMON)
def ops_list(
    file: Annotated[str | None, typer.Argument(help="A file of operators, listed too.", metavar="FILE.py")] = None,
    **options: Any,
) -> None:
    """Show every operator: where it comes from, and what it costs at a site of 64 channels."""
    from narfx.verbs.ops_list import catalogue

    _output(options).result(catalogue(file), tables.ops_list)


@ops.command("test")
@takes(COMMON)
def ops_test(
    file: Annotated[
        str | None, typer.Argument(help="A file of operators; without one, narfx's own.", metavar="FILE.py")
    ] = None,
    **options: Any,
) -> None:
    """Try operators at many geometries: shape, gradient, cost, copies, ONNX; exit code 2 where one fails."""
    from narfx.support.devices import pick_device
    from narfx.verbs.ops_test import try_file

    report = try_file(file, seed=options["seed"] or 0, device=pick_device(options["device"]))
    _output(options).result(report, tables.ops_test)
    if not report["passed"]:
        raise typer.Exit(2)


@app.command()
@takes(TASK, {name: NETWORK[name] for name in ("input", "weights")}, COMMON)
def evaluate(
    target: Annotated[
        str, typer.Argument(help="An arch.json, a bundle or run, an .onnx file, or a MODEL.", metavar="TARGET")
    ],
    data: Annotated[str, typer.Option(help="As for train; or pairs of faces: a .bin, or a folder with pairs.txt.")],
    pairs: Annotated[str | None, typer.Option(help="The list of pairs in the folder [pairs.txt in it].")] = None,
    folds: Annotated[int | None, typer.Option(help="Of the pairs [as many as the list says, else 10].")] = None,
    part: Annotated[str | None, typer.Option(help="test, val or train [the first that the data have].")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a batch [64].")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16, of a torch network [fp32].")] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the result, of pairs with the ROC.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --out.")] = False,
    **options: Any,
) -> None:
    """Judge a network: accuracy on classes, verification on pairs of faces; an ONNX file as it is."""
    from narfx.support.schema import validated
    from narfx.verbs import evaluate as evaluation

    output = _output(options)
    fields = given(
        {
            "target": target, "data": data, "pairs": pairs, "folds": folds, "part": part, "batch_size": batch_size,
            "precision": precision, **options,
        }
    )  # fmt: skip
    result = evaluation.evaluate(
        validated(evaluation.EvaluateConfig, fields, "evaluate"),
        out,
        device=options["device"],
        overwrite=overwrite,
        reporter=output.reporter,
    )
    output.result(result, tables.evaluate)


@app.command()
@takes({name: option for name, option in COMMON.items() if name != "device"})
def proxy(
    source: Annotated[str, typer.Argument(help="A folder of identities, a .tar of one, or an .npz.", metavar="SOURCE")],
    out: Annotated[Path, typer.Option(help="A folder, or a file .npz where the source is one.")],
    identities: Annotated[int, typer.Option(help="How many identities.")],
    images: Annotated[int, typer.Option(help="Images of each, the held-out ones among them.")],
    held_out: Annotated[int | None, typer.Option(help="Of these, for validation [a tenth].")] = None,
    overwrite: Overwrite = False,
    **options: Any,
) -> None:
    """Draw a small task from a large one: so many identities and images, some of each held out, all written down."""
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
    _output(options).result(drawn, tables.proxy)


def _output(options: dict[str, Any]) -> Output:
    return Output(options["json"], options["quiet"])


def main() -> None:
    """The ``narfx`` command."""
    code = run_app(app)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said, and torch takes its time to end
    # Python notes a Ctrl-C that ends a text in exec, as fx runs its code, and would end by the signal and not by the
    # exit code; the next text that it runs makes it forget.
    exec("")
    raise SystemExit(code)
