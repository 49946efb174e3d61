"""The command line: each verb parses its options, calls one function of the package, and prints the result.

Standard output carries the result only: a table, or one JSON object with ``--json``. Messages go to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from narfx._startup import INTERRUPTS
from narfx._version import __version__
from narfx.cli import tables
from narfx.cli.analyze import analyze
from narfx.cli.console import output_of, parse_pairs, run_app
from narfx.cli.launch import launch
from narfx.cli.ops import ops
from narfx.cli.options import (  # fmt: skip
    COMMON,
    DATA,
    LATENCY,
    MODEL,
    NETWORK,
    PAIRS,
    RECIPE,
    RUN,
    TASK,
    TEACHER,
    TRUST,
    WEIGHTS,
    given,
    option_names,
    takes,
)
from narfx.data.registry import source_forms
from narfx.errors import UsageError
from narfx.search.registry import strategy_names

__all__ = ["app", "main"]

_INTERRUPTED = (75, 130)  # exit codes of what was interrupted, with a checkpoint and without

app = typer.Typer(
    name="narfx",
    help="Replace operators of a working CNN by cheaper ones: trace it, search, and export a verified ONNX file.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(ops, name="ops")
app.add_typer(analyze, name="analyze")

Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace all of --out, if narfx made it, once the new one is whole."),
]
Out = Annotated[Path, typer.Option(help="The run directory.")]
Data = Annotated[
    str | None,
    typer.Option(help=f"The data: {source_forms()}."),
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
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail (exit code 3) if a part of the model cannot be traced.")
    ] = False,
    latency_check: Annotated[
        int | None,
        typer.Option(
            help="Time this many random networks and compare each with its predicted latency; 8 is a good number."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Show the sites of a model, their operators and costs, and why other convolutions are not sites."""
    from narfx.compiler.open import NetworkOptions
    from narfx.support.devices import pick_device
    from narfx.support.schema import validated
    from narfx.verbs.trace import trace_model

    pick_device(options["device"])
    output = output_of(options)
    fields = given({"model": model, **options})
    seed = fields.pop("seed", 0)
    timing = {name: fields.pop(name) for name in LATENCY if name in fields}
    network = validated(NetworkOptions, fields, "trace", names=option_names(fields))
    report = trace_model(network, timing, latency_check, strict=strict, seed=seed, reporter=output.reporter)
    output.result(report, tables.trace)


@app.command()
@takes(
    NETWORK, LATENCY, DATA, {name: option for name, option in RECIPE.items() if name != "label_smoothing"}, RUN, COMMON
)
def search(
    out: Out,
    model: Annotated[
        str | None, typer.Argument(help="The model, as for narfx trace; optional with --resume or --config.")
    ] = None,
    data: Data = None,
    strategy: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(strategy_names())} [solve where --weights are given, else nar]."),
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
    init: Annotated[
        str | None, typer.Option(help="Where the shared weights start: base (the model's weights) or scratch [base].")
    ] = None,
    prepare: Annotated[
        str | None,
        typer.Option(
            help="How the operators are prepared: uniform (training on random architectures), or distil (each learns "
            "the base's features at its site) [distil for solve, else uniform]."
        ),
    ] = None,
    pretrain_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of the preparation, included in --epochs [2 for solve, else 3, at most --epochs less one]."
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
    lot: Annotated[int | None, typer.Option(help="Proposals evaluated in one step of the strategy [5].")] = None,
    reward_images: Annotated[int | None, typer.Option(help="Validation images for one reward [256].")] = None,
    finalists: Annotated[
        int | None, typer.Option(help="Vectors evaluated on the whole validation part at the end [10].")
    ] = None,
    randoms: Annotated[
        int | None, typer.Option(help="Random vectors of equal cost, evaluated for comparison; at least 8 [8].")
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
            "pretrain_epochs": pretrain_epochs, "steps": steps, "lot": lot, "reward_images": reward_images,
            "finalists": finalists, "randoms": randoms, "norms": norms, "prepare": prepare, "distil_lr": distil_lr,
            "distil_compare": distil_compare, "score_images": score_images, "quick": quick, **options,
        }
    )  # fmt: skip
    result = launch(
        searching.SearchConfig, searching.run, searching.resume, searching.estimate_search, needed="model", out=out,
        fields=fields, options=options, output=output,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else tables.search)


@app.command()
@takes(TRUST, {name: option for name, option in COMMON.items() if name != "seed"})
def solve(
    run: Annotated[Path, typer.Argument(help="The run of a search with --strategy solve.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="The folder that gets the architecture, or one folder for each point.")],
    budget: Annotated[
        str, typer.Option(help="As for narfx search; a range gives a front: macs<=0.3x..0.9x,params<=0.8x.")
    ],
    count: Annotated[int, typer.Option(help="Solutions that are evaluated for each budget; the best is kept.")] = 1,
    points: Annotated[int, typer.Option(help="How many budgets a range has.")] = 7,
    overwrite: Overwrite = False,
    **options: Any,
) -> None:
    """Answer another budget from the scores of a search, without training."""
    from narfx.verbs.solve import solve as solve_run

    output = output_of(options)
    result = solve_run(
        run, out, budget=budget, count=count, points=points, device=options["device"], overwrite=overwrite,
        reporter=output.reporter,
    )  # fmt: skip
    output.result(result, tables.solve)


@app.command()
@takes(WEIGHTS, TRUST, COMMON)
def apply(
    architecture: Annotated[Path, typer.Argument(help="The architecture to build.", metavar="ARCH.JSON")],
    out: Annotated[Path, typer.Option(help="The folder that gets the bundle.")],
    opset: Annotated[int | None, typer.Option(help="The ONNX opset, at least 13 [torch's own default].")] = None,
    input_name: Annotated[str, typer.Option(help="The name of the input in the ONNX file.")] = "input",
    output_name: Annotated[
        list[str] | None,
        typer.Option(help="The name of an output in the ONNX file; repeat it for each output, in order."),
    ] = None,
    overwrite: Overwrite = False,
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


@app.command()
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


@app.command()
@takes({name: NETWORK[name] for name in ("input", "weights")}, DATA, RECIPE, TEACHER, RUN, COMMON)
def train(
    out: Out,
    target: Annotated[
        str | None,
        typer.Argument(help="An arch.json, or a MODEL (its base network is trained).", metavar="ARCH.JSON|MODEL"),
    ] = None,
    data: Data = None,
    base: Annotated[
        bool | None, typer.Option("--base", help="Train the base of the architecture, without its changes.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Where the weights start: inherit (--weights, or those of the architecture) or scratch [inherit]."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Train the network of an architecture, or its base."""
    from narfx.verbs import train as training

    output = output_of(options)
    fields = given({"target": target, "data": data, "base": base, "init": init, **options})
    result = launch(
        training.TrainConfig, training.train, training.resume_train, training.estimate_train, needed="target",
        out=out, fields=fields, options=options, output=output,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else tables.train)


@app.command()
@takes(PAIRS, WEIGHTS, DATA, RECIPE, TEACHER, RUN, COMMON)
def compare(
    out: Out,
    target: Annotated[
        list[str] | None,
        typer.Argument(help="One or more arch.json; NAME=arch.json gives its row a name.", metavar="ARCH.JSON..."),
    ] = None,
    data: Data = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many times each network is trained, each with another seed [3].")
    ] = None,
    randoms: Annotated[int | None, typer.Option(help="Random vectors of equal cost for each architecture [8].")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Where the weights start: scratch, inherit (--weights, those of the base), or prepared (the operators "
            "that a search with --strategy solve distilled) [scratch]."
        ),
    ] = None,
    prepared: Annotated[
        str | None,
        typer.Option(help="The run of the search for --init prepared [the folder of the first arch.json]."),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            help="The number of outputs of every network: keep, auto (one for each class), or a number [keep]."
        ),
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="The shape of one image, channels,height,width [that of the architectures].")
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(
            help="Verify each network on pairs of faces: FILE.bin, or a folder with pairs.txt; needs --task faces."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Train architectures, their bases and random vectors of equal cost by one recipe, and compare their accuracy."""
    from narfx.verbs import compare as comparison

    output = output_of(options)
    fields = given(
        {
            "target": target[0] if target else None, "data": data, "seeds": seeds, "randoms": randoms, "init": init,
            "prepared": prepared, "outputs": outputs, "input": input, "verify": verify, **options,
        }
    )  # fmt: skip
    if target:  # the targets of the command line replace all targets of a config file
        fields |= {"further": target[1:], "names": ()}
    result = launch(
        comparison.CompareConfig, comparison.compare, comparison.resume_compare, comparison.estimate_compare,
        needed="target", out=out, fields=fields, options=options, output=output, extends=False,
    )  # fmt: skip
    output.result(result, tables.estimate if options["dry_run"] else tables.compare)


@app.command()
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
        Path | None, typer.Option(help="A JSON file that gets the result; with pairs it also holds the ROC curve.")
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


@app.command()
@takes({name: option for name, option in COMMON.items() if name != "device"})
def proxy(
    source: Annotated[
        str,
        typer.Argument(help="A folder of one folder for each identity, a .tar of it, or an .npz.", metavar="SOURCE"),
    ],
    out: Annotated[Path, typer.Option(help="A new folder; if SOURCE is an .npz, a new .npz.")],
    identities: Annotated[int, typer.Option(help="How many identities to draw.")],
    images: Annotated[int, typer.Option(help="Images of each identity, including the held-out ones.")],
    held_out: Annotated[
        int | None, typer.Option(help="Images of each identity held out for validation [a tenth of --images].")
    ] = None,
    overwrite: Overwrite = False,
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


def main() -> None:
    """The ``narfx`` command."""
    code = run_app(app)
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # the result is printed, and torch takes a while to exit
    if code in _INTERRUPTED:
        # A thread may still compute in native code, which crashes when its modules are taken down.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    # CPython remembers a Ctrl-C that ended an exec() (fx runs its code with it), and would then exit by the signal
    # instead of the exit code. Another exec() makes it forget.
    exec("")
    raise SystemExit(code)
