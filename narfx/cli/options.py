"""Options that several verbs share, each said once, and how a verb takes a group of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from narfx.cli.console import parse_input, parse_pairs
from narfx.errors import UsageError

__all__ = [
    "COMMON", "DATA", "LATENCY", "MODEL", "NETWORK", "RECIPE", "RUN", "TASK", "WEIGHTS", "given", "takes",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., None])
Group = Mapping[str, tuple[Any, Any]]
"""Name of a parameter: its annotation for typer, and its default."""


def _text(help: str, *names: str) -> tuple[Any, None]:
    return Annotated[str | None, typer.Option(*names, help=help)], None


def _whole(help: str) -> tuple[Any, None]:
    return Annotated[int | None, typer.Option(help=help)], None


def _number(help: str) -> tuple[Any, None]:
    return Annotated[float | None, typer.Option(help=help)], None


def _flag(name: str, help: str, *short: str) -> tuple[Any, bool]:
    return Annotated[bool, typer.Option(name, *short, help=help)], False


MODEL = Annotated[str, typer.Argument(help="file.py[:factory], module:factory, torchvision:, timm: or narfx:NAME.")]

COMMON: Group = {
    "seed": (Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Of every random draw [0].")], None),
    "device": (Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")], "auto"),
    "json": _flag("--json", "One JSON object on standard output, all else on standard error."),
    "quiet": _flag("--quiet", "Results and errors only.", "-q"),
    "verbose": _flag("--verbose", "A traceback with an internal error.", "-v"),
}

WEIGHTS: Group = {"weights": _text("A state dict: safetensors, or .pt read with weights_only.")}

NETWORK: Group = {
    "input": _text("One sample: channels,height,width."),
    "granularity": _text("conv: a slot a convolution; block: a slot a residual block."),
    "operators": _text("The list that vectors index, base first, with commas; FILE.py stands for its operators."),
    "operators_file": _text("Python files that register operators of your own, with commas."),
    "kernels": _text("The kernel sizes that make a site, of 3,5,7 [3]."),
    "max_candidate_params": _text("The most parameters of an operator, in those of the site's own call [1.0x]."),
    "include_first": (
        Annotated[bool | None, typer.Option("--include-first", help="Let the first convolution be refined too.")],
        None,
    ),
    "search_skips": (
        Annotated[bool | None, typer.Option("--search-skips", help="Search the skips of the main path too.")],
        None,
    ),
    "skips_from_input": (
        Annotated[
            bool | None,
            typer.Option("--skips-from-input/--no-skips-from-input", help="Whether they may start at node 0 [yes]."),
        ],
        None,
    ),
    **WEIGHTS,
}

TASK: Group = {
    "task": _text("classification, or faces: embeddings, learnt by ArcFace's loss [classification]."),
    "task_option": (
        Annotated[
            list[str] | None, typer.Option(help="KEY=VALUE, may be repeated; faces: scale, margin, grey=refuse|repeat.")
        ],
        None,
    ),
}

DATA: Group = {
    **TASK,
    "val_data": _text("Validation data of their own, in any of these forms."),
    "data_fraction": _number("The share of the training part that is used [1.0]."),
    "val_fraction": _number("The share held out for validation [0.1]."),
    "augment": _text("none, crop, flip or crop-flip [what suits the data]."),
    "batch_size": _whole("Images in a training batch [128]."),
}

RECIPE: Group = {
    "epochs": _whole("Epochs of training."),
    "lr": _number("The highest learning rate of a cycle."),
    "lr_min": _number("The lowest learning rate of a cycle."),
    "t0": _whole("Epochs of the first SGDR cycle."),
    "tmult": _whole("How much longer each further cycle is."),
    "weight_decay": _number("On all parameters that a step uses."),
    "label_smoothing": _number("Of the training loss [0]."),
    "schedule": _text("The paper's: search (150 epochs, t0 10) or train (35, t0 5); options beside it win."),
    "precision": _text("fp32, or bf16: products in bfloat16, by autocast [fp32]."),
    "channels_last": (
        Annotated[
            bool | None, typer.Option("--channels-last/--no-channels-last", help="The order of memory [channels last].")
        ],
        None,
    ),
}

LATENCY: Group = {
    "latency": (
        Annotated[bool | None, typer.Option("--latency", help="Time each operator at each site in onnxruntime.")],
        None,
    ),
    "latency_file": _text("A latency.json that is used, and gets what is measured."),
    "threads": _whole("Of onnxruntime, for latency [1]."),
    "batch": _whole("Samples of one call, for latency [1]."),
    "provider": _text("Of onnxruntime, for latency [CPUExecutionProvider]."),
}

RUN: Group = {
    "config": (Annotated[Path | None, typer.Option(help="A run's config.json; options given beside it win.")], None),
    "resume": _flag("--resume", "Go on with the run in --out."),
    "overwrite": _flag("--overwrite", "Replace a folder that is not empty, as a whole."),
}


def takes(*groups: Group) -> Callable[[F], F]:
    """Give a verb that ends in ``**given`` the parameters of these groups behind its own."""

    def extend(verb: F) -> F:
        own = [
            parameter
            for parameter in inspect.signature(verb, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for group in groups
            for name, (annotation, default) in group.items()
        ]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + shared
        verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return verb

    return extend


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave of a configuration's fields, read; the rest has its default in the configuration.

    The options of the verb's own conduct (``--json``, ``--resume``, ...) are no fields.
    """
    fields = {key: value for key, value in options.items() if key not in {**COMMON, **RUN} or key == "seed"}
    if "input" in fields:
        fields["input"] = parse_input(fields["input"])
    fields |= _operators(fields.pop("operators", None), fields.pop("operators_file", None))
    if "task_option" in fields:
        fields["task_options"] = parse_pairs(fields.pop("task_option"), "--task-option")
    if fields.get("kernels"):
        fields["kernels"] = _integers(fields["kernels"], "--kernels")
    if fields.get("max_candidate_params"):
        # Nothing is taken from what is no number, so that the error shows what was given.
        text = fields["max_candidate_params"]
        fields["max_candidate_params"] = text.removesuffix("x") if text[:1].isdigit() or text[:1] == "." else text
    return {key: value for key, value in fields.items() if value not in (None, {})}


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _operators(operators: str | None, files: str | None) -> dict[str, Any]:
    """Names, and the files of operators among them or beside them, which are run."""
    if not files and ".py" not in (operators or ""):
        return {"operators": _names(operators)} if operators else {}
    from narfx.operators import choose_operators

    names, found = choose_operators(_names(operators) if operators else (), _names(files) if files else ())
    return {"operators": names, "operator_files": found}


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} is a list of whole numbers, not {text!r}", where=option, kind="list_syntax"
        ) from error
