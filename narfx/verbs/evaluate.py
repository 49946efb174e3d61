"""What a finished network is worth: accuracy on classes, verification on pairs of faces; also straight from ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from narfx.data.image_data import ImageData, normalisation
from narfx.data.pairs import Pairs, read_pairs
from narfx.data.parts import check_channels
from narfx.data.sources import read_source
from narfx.data.splits import make_split
from narfx.errors import UsageError
from narfx.graph.checks import check_values
from narfx.runs.progress import Reporter, Silent
from narfx.space.architecture import Preprocessing
from narfx.support.devices import is_out_of_memory, pick_device
from narfx.support.files import write_json
from narfx.support.text import first_line
from narfx.tasks.classification import Classification
from narfx.tasks.options import face_options
from narfx.tasks.precision import Precision, PrecisionName
from narfx.tasks.verification import Verification, similarities, verify
from narfx.training.checks import outputs
from narfx.verbs.target import Shape, Target, load_target

__all__ = ["evaluate", "judge_pairs", "open_pairs"]

_MEMORY = 2 * 1024**3


def evaluate(
    target: str,
    data: str,
    *,
    task: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    pairs: str | None = None,
    folds: int | None = None,
    part: str | None = None,
    weights: str | None = None,
    input: Shape | None = None,
    batch_size: int = 64,
    out: Path | str | None = None,
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    precision: PrecisionName = "fp32",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Judge a network by data it was not trained on.

    Args:
        target: See :func:`narfx.verbs.target.load_target`.
        data: A source of classes, or pairs of faces: a ``.bin``, or a folder with a list.
        task: ``faces`` for pairs; without it, pairs are what a ``.bin`` is, or a folder with ``pairs``.
        task_options: Of faces; ``grey="repeat"`` lets a network of several channels take grey images.
        pairs: The list of pairs in an image folder, ``pairs.txt`` in it without one.
        folds: Of the verification: as many as the list says, else ten.
        part: ``test``, ``val`` or ``train`` of a source of classes; the first of these that it has.
        weights: A state dict for the target.
        input: (C, H, W) of a model reference or an ONNX file that does not say it.
        batch_size: Images in a batch.
        out: A JSON file for the result; that of pairs also has the ROC.
        overwrite: Whether ``out`` may exist.
        device: Where a torch network runs; an ONNX file runs on the CPU.
        seed: Of what the target builds without weights.
        precision: ``fp32``, or ``bf16`` for a torch network: see :class:`narfx.tasks.precision.Precision`.
        reporter: What a person sees.

    Returns:
        ``{"task", "accuracy", ...}``: with ``loss``, ``images`` and ``part`` for classes; for pairs as
        :meth:`narfx.tasks.verification.Verification.to_json` says.

    Raises:
        UsageError: The target, the data or an option is wrong, or the outputs are not finite or have no direction.
    """
    out, reporter = None if out is None else Path(out), reporter or Silent()
    _check_file(out, overwrite)
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}: it is at least 1", where="--batch-size", kind="batch_size")
    by_pairs = task == "faces" or (task is None and (pairs is not None or data.lower().endswith(".bin")))
    if task not in (None, "classification", "faces"):
        raise UsageError(f"unknown task {task!r}: classification or faces", where="--task", kind="unknown_task")
    given = {"--pairs": pairs, "--folds": folds, "--task-option": task_options} if not by_pairs else {"--part": part}
    for option, value in given.items():
        if value not in (None, {}):
            other = "classification" if by_pairs else "faces"
            raise UsageError(f"{option} belongs to the task {other}", where=option, kind="option_of_another_task")
    repeat_grey = face_options(task_options or {}).grey == "repeat"
    place = pick_device(device)
    if precision not in get_args(PrecisionName):
        raise UsageError(f"unknown precision {precision!r}: fp32 or bf16", where="--precision", kind="precision")
    numbers = Precision(precision, device_type=place.type)
    if precision != "fp32" and target.lower().endswith(".onnx"):
        raise UsageError(
            f"{target} computes as it was exported: leave out --precision", where="--precision", kind="precision"
        )
    opened = load_target(target, weights=weights, input=input, seed=seed)
    _try(opened, input, place)
    if by_pairs:
        found, roc = _pairs(opened, data, pairs, folds, repeat_grey, batch_size, numbers, place, reporter)
    else:
        found, roc = _classes(opened, data, part, batch_size, numbers, place), {}
    result = {**found, "target": Path(target).name, "weights": opened.weights, "input": list(opened.input)}
    if out is not None:
        write_json(out, {**result, **roc})
        result["files"] = {"result": str(out)}
    return result


def _check_file(out: Path | None, overwrite: bool) -> None:
    if out is None:
        return
    if out.is_dir() or (out.exists() and not overwrite):
        raise UsageError(
            f"{out} exists: choose another name or add --overwrite", where=str(out), kind="output_exists"
        )  # fmt: skip
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}", where=str(out), kind="not_writable")


def _try(target: Target, input: Shape | None, device: torch.device) -> None:
    """Bring the network to its device and give it one black image."""
    if input not in (None, target.input):
        raise UsageError(
            f"the network takes {target.input}, as what names it says: leave out --input", where="--input",
            kind="input_shape",
        )  # fmt: skip
    check_values(target.network)
    try:
        with torch.inference_mode():
            target.network.to(device).eval()(torch.zeros(1, *target.input, device=device))
    except Exception as error:  # the user's own code
        if is_out_of_memory(error) or isinstance(error, UsageError):
            raise
        raise UsageError(
            f"the network does not take one image of shape {target.input} ({first_line(error)}): give its shape with "
            "--input",
            where="--input",
            kind="input_shape",
        ) from error


def open_pairs(
    source: str, listed: str | None, folds: int | None, channels: int, repeat_grey: bool
) -> tuple[Pairs, int]:
    """Pairs of faces for a network of so many channels, and the number of folds; nothing is left to be found wrong.

    Raises:
        UsageError: The pairs are missing or malformed, are grey where colour is needed, or too few for the folds.
    """
    pairs = read_pairs(source, listed)
    if folds is not None and pairs.folds is not None and folds > pairs.folds:
        raise UsageError(
            f"{pairs.name} has {pairs.folds} folds, and {folds} are asked for: lower --folds",
            where="--folds",
            kind="too_few_folds",
        )
    check_channels(pairs.images.channels, channels, source, repeat_grey=repeat_grey)
    wanted = next(number for number in (folds, pairs.folds, 10) if number is not None)
    verify(np.zeros(len(pairs.same)), pairs.same, wanted)  # what is wrong with the pairs is known before any work
    return pairs, wanted


def judge_pairs(
    network: Callable[[Tensor], Any], pairs: Pairs, folds: int, shape: Shape, *, mean: tuple[float, ...],
    std: tuple[float, ...], batch_size: int, device: torch.device, reporter: Reporter,
) -> Verification:  # fmt: skip
    """Verification of a network that takes images of ``shape`` (C, H, W) with this mean and standard deviation.

    Raises:
        UsageError: An image cannot be decoded, or embeddings are not finite or have no direction.
    """
    cosines = similarities(
        network, pairs, shape, mean=mean, std=std, batch_size=batch_size, device=device, reporter=reporter
    )
    return verify(cosines, pairs.same, folds)


def _pairs(
    target: Target, data: str, listed: str | None, folds: int | None, repeat_grey: bool, batch_size: int,
    numbers: Precision, device: torch.device, reporter: Reporter,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    pairs, wanted = open_pairs(data, listed, folds, target.input[0], repeat_grey)
    half = (0.5,) * target.input[0]
    used = target.preprocessing or Preprocessing(mean=half, std=half)
    verified = judge_pairs(
        partial(numbers.apply, target.network),
        pairs,
        wanted,
        target.input,
        mean=used.mean,
        std=used.std,
        batch_size=batch_size,
        device=device,
        reporter=reporter,
    )
    roc = {"roc": [{"far": far, "tar": tar, "threshold": cosine} for far, tar, cosine in verified.roc]}
    return {"task": "verification", "data": pairs.name, **verified.to_json()}, roc


def _classes(
    target: Target, source: str, part: str | None, batch_size: int, numbers: Precision, device: torch.device
) -> dict[str, Any]:
    found = read_source(source, target.input, _MEMORY)
    parts = {name: held for name in ("test", "val", "train") if (held := getattr(found, name)) is not None}
    if part is not None and part not in parts:
        raise UsageError(
            f"{source} has no part {part!r}: it has {', '.join(parts)}", where="--part", kind="no_such_part"
        )
    name = part or next(iter(parts))
    splits = {}
    for key in {name, *(() if target.preprocessing else ("train",))}:
        check_channels(parts[key].channels, target.input[0], source)
        everything = np.arange(len(parts[key].labels), dtype=np.int64)
        small = len(everything) * math.prod(target.input) <= _MEMORY
        splits[key] = make_split(parts[key], everything, target.input, device, small)
    if target.preprocessing is not None:
        mean, std = target.preprocessing.mean, target.preprocessing.std
    else:
        mean, std, _ = normalisation(found, splits["train"], target.input)
    judged = splits[name]
    data = ImageData(source, found.classes, mean, std, judged, judged, judged, (), False)
    task = Classification(data, batch_size=batch_size, precision=numbers)
    task.check(outputs(target.network, target.input, device))
    scores = task.evaluate(target.network, "test")
    if not math.isfinite(scores["loss"]):
        raise UsageError(
            "the network gives NaN or infinite logits: its weights are broken, or images are normalised in another "
            "way than in training",
            kind="outputs_not_finite",
        )
    return {"task": "classification", "data": data.short_name, "part": name, **scores}
