"""Options that several verbs share, each defined once, and how a verb takes a group of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from narfx.cli.console import parse_input, parse_pairs
from narfx.data.forms import all_forms
from narfx.errors import UsageError

__all__ = [
    "COMMON", "DATA", "LATENCY", "MODEL", "NETWORK", "OUT", "OVERWRITE", "PAIRS", "RECIPE", "RUN", "SOURCE", "TASK",
    "TEACHER", "TRUST", "WEIGHTS", "given", "option_names", "takes", "whole_numbers",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., None])
Group = Mapping[str, tuple[Any, Any]]
"""The annotation for typer and the default, by the name of the parameter."""


def _text(help: str, *names: str) -> tuple[Any, None]:
    return Annotated[str | None, typer.Option(*names, help=help)], None


def _whole(help: str) -> tuple[Any, None]:
    return Annotated[int | None, typer.Option(help=help)], None


def _number(help: str) -> tuple[Any, None]:
    return Annotated[float | None, typer.Option(help=help)], None


def _flag(name: str, help: str, *short: str) -> tuple[Any, bool]:
    return Annotated[bool, typer.Option(name, *short, help=help)], False


MODEL = Annotated[
    str, typer.Argument(help="FILE.py[:factory], module:factory, torchvision:NAME, timm:NAME or narfx:NAME.")
]

OUT = Annotated[Path, typer.Option(help="The run directory.")]

OVERWRITE = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace all of --out, if narfx made it, once the new one is whole."),
]

SOURCE = Annotated[str | None, typer.Option(help=f"The data: {all_forms()}.")]

TRUST: Group = {
    "trust": _flag(
        "--trust", "Run the code that files name: a model.py, operators, data (docs/what_runs_code.md) [$NARFX_TRUST]."
    )
}

COMMON: Group = {
    "seed": (
        Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="The seed of every random draw [0].")],
        None,
    ),
    "device": (Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")], "auto"),
    "json": _flag("--json", "Print one JSON object on standard output; messages go to standard error."),
    "quiet": _flag("--quiet", "Print results and errors only.", "-q"),
    "verbose": _flag("--verbose", "Print a traceback with an internal error.", "-v"),
}

WEIGHTS: Group = {"weights": _text("A state dict, .safetensors or .pt (read with weights_only).")}

NETWORK: Group = {
    "input": _text(
        "The shape of one image: channels,height,width; only with it are smaller images enlarged [that of the images, "
        "or what the model states]."
    ),
    "granularity": _text("conv: one choice for each convolution; block: one for each residual block [conv]."),
    "operators": _text(
        "The operators to choose from, base first, joined by commas; FILE.py adds all operators of a file."
    ),
    "operators_file": _text("Python files that register your own operators, joined by commas."),
    "kernels": _text("Kernel sizes of the convolutions that may be replaced: some of 3,5,7 [3]."),
    "max_candidate_params": _text(
        "Limit on the parameters of an operator, relative to the convolution that it replaces [1.0x]."
    ),
    "include_first": (
        Annotated[bool | None, typer.Option("--include-first", help="Allow the first convolution to be replaced too.")],
        None,
    ),
    "search_skips": (
        Annotated[
            bool | None, typer.Option("--search-skips", help="Search the skip connections of the main path too.")
        ],
        None,
    ),
    "skips_from_input": (
        Annotated[
            bool | None,
            typer.Option(
                "--skips-from-input/--no-skips-from-input",
                help="Whether skips may start at node 0 of the main path [yes].",
            ),
        ],
        None,
    ),
    **WEIGHTS,
}

TASK: Group = {
    "task": _text("classification, or faces (embeddings trained with ArcFace's loss) [classification]."),
    "task_option": (
        Annotated[
            list[str] | None,
            typer.Option(
                help="An option of --task faces, KEY=VALUE: scale, margin, grey=refuse|repeat; may be repeated."
            ),
        ],
        None,
    ),
}

PAIRS: Group = {
    "pairs": _text("The list of pairs of faces, for a folder of images [pairs.txt in the folder]."),
    "folds": _whole("Folds of the verification on pairs [those of the list, else 10]."),
}

DATA: Group = {
    **TASK,
    "val_data": _text("Separate validation data, in any form of --data [a part of the training data]."),
    "data_fraction": _number("The share of the training images that is used [1.0]."),
    "max_train_images": _whole("Use at most this many training images, each class in proportion [all]."),
    "val_fraction": _number("The share of the training images held out for validation [0.1]."),
    "augment": _text(
        "none, crop, flip, crop-flip, or your own package.module:factory of a transform [depends on the data]."
    ),
    "batch_size": _whole("Images in a training batch [128]."),
}

RECIPE: Group = {
    "epochs": _whole("Training epochs; --dry-run says how long they take [search: 3 for solve, else 30; others 35]."),
    "lr": _number(
        "The highest learning rate of each cycle [0.05 for search, 0.01 where its operators are distilled by default; "
        "else 0.1]."
    ),
    "lr_min": _number("The lowest learning rate of each cycle [0.0001]."),
    "t0": _whole("Epochs of the first cycle of the learning rate (SGDR) [10 for search, else 5]."),
    "tmult": _whole("Each cycle is this many times as long as the one before [2]."),
    "weight_decay": _number("Weight decay, applied to the parameters that a step uses [0.0005]."),
    "label_smoothing": _number("Label smoothing of the training loss [0]."),
    "optimizer": _text("Your own optimizer, as in torch.optim:AdamW or FILE.py:factory; needs --lr [SGD]."),
    "schedule": _text(
        "The NAR paper's search (150 epochs, t0 10) or train (35 epochs, t0 5), which other options override; or your "
        "own package.module:factory of a learning rate [SGDR by --t0 and --tmult]."
    ),
    "precision": _text("fp32, or bf16 (convolutions and matrix products in bfloat16, by autocast) [fp32]."),
    "channels_last": (
        Annotated[
            bool | None,
            typer.Option(
                "--channels-last/--no-channels-last", help="Memory layout of images and kernels [channels last]."
            ),
        ],
        None,
    ),
}

TEACHER: Group = {
    "teacher": _text(
        "A trained network whose outputs the network learns too: base (the one that was refined) or a MODEL [none]."
    ),
    "teacher_weights": _text("The weights of the teacher."),
    "teacher_weight": _number("The teacher's share of the loss, from 0 to 1; the task has the rest [0.9]."),
    "temperature": _number("Softmax temperature of a teacher that classifies [4]."),
}

LATENCY: Group = {
    "latency": (
        Annotated[
            bool | None,
            typer.Option("--latency", help="Measure the latency of each operator at each site in onnxruntime."),
        ],
        None,
    ),
    "latency_file": _text("A latency.json: known latencies are read from it, new ones are added to it."),
    "threads": _whole("Threads of onnxruntime when latency is measured [1]."),
    "batch": _whole("Batch size when latency is measured [1]."),
    "provider": _text("Execution provider of onnxruntime when latency is measured [CPUExecutionProvider]."),
}

RUN: Group = {
    **TRUST,
    "config": (Annotated[Path | None, typer.Option(help="The config.json of a run; other options override it.")], None),
    "resume": _flag("--resume", "Resume the run in --out; with --epochs N, extend it (search and train only)."),
    "checkpoint": _text("With --resume: last, or previous for the checkpoint before the last [last]."),
    "overwrite": (OVERWRITE, False),
    "tensorboard": _flag(
        "--tensorboard", "Also write scalars for TensorBoard into RUN/tensorboard (pip install 'narfx[tensorboard]')."
    ),
    "dry_run": _flag("--dry-run", "Check everything, say how long it will take, and stop; nothing is written."),
}


def takes(*groups: Group) -> Callable[[F], F]:
    """Add the parameters of these groups to a verb that ends in ``**options``, after its own.

    With ``--trust`` among them, the verb runs as :func:`narfx.inputs.trust.trusted` says.
    """

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
        verb = _trusting(verb) if any("trust" in group for group in groups) else verb
        verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return verb

    return extend


def _trusting(verb: F) -> F:
    @wraps(verb)
    def call(*, trust: bool, **options: Any) -> None:
        from narfx.inputs.trust import trusted  # it needs torch: --help does not

        with trusted(trust):
            verb(**options)

    return call  # type: ignore[return-value]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that the user gave, parsed; the configuration has defaults for the others.

    Options of the verb itself (``--json``, ``--resume``, ...) are no fields.
    """
    fields = {key: value for key, value in options.items() if key not in {**COMMON, **RUN} or key == "seed"}
    if "input" in fields:
        fields["input"] = parse_input(fields["input"])
    fields |= _operators(fields.pop("operators", None), fields.pop("operators_file", None))
    if fields.get("teacher") not in (None, "base"):
        fields["teacher_model"] = fields.pop("teacher")
    if "task_option" in fields:
        fields["task_options"] = parse_pairs(fields.pop("task_option"), "--task-option")
    if fields.get("kernels"):
        fields["kernels"] = whole_numbers(fields["kernels"], "--kernels")
    if fields.get("max_candidate_params"):
        # Only a number loses its x, so that an error shows the text that the user gave.
        text = fields["max_candidate_params"]
        fields["max_candidate_params"] = text.removesuffix("x") if text[:1].isdigit() or text[:1] == "." else text
    return {key: value for key, value in fields.items() if value not in (None, {})}


def option_names(fields: Iterable[str]) -> dict[str, str]:
    """What the user calls each of these fields of a configuration, for messages."""
    return {field: _NAMES.get(field, f"--{field.replace('_', '-')}") for field in fields}


# Arguments, and options whose fields have another name.
_NAMES = {
    "model": "MODEL", "target": "the first argument", "strategy_options": "--strategy-option",
    "task_options": "--task-option", "operator_files": "--operators-file",
}  # fmt: skip


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _operators(operators: str | None, files: str | None) -> dict[str, Any]:
    """The names of operators, and the files that register them, which are run."""
    if not files and ".py" not in (operators or ""):
        return {"operators": _names(operators)} if operators else {}
    from narfx.operators import choose_operators

    names, found = choose_operators(_names(operators) if operators else (), _names(files) if files else ())
    return {"operators": names, "operator_files": found}


def whole_numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Whole numbers joined by commas.

    Raises:
        UsageError: The text is something else.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} takes whole numbers joined by commas, not {text!r}", where=option, kind="list_syntax"
        ) from error
