"""How good a finished network is: accuracy on classes, verification on pairs of faces; also straight from ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from narfx.data.arrays import Source
from narfx.data.image_data import images_of
from narfx.data.pairs import Pairs, read_pairs
from narfx.data.parts import Part
from narfx.data.sources import read_source
from narfx.errors import UsageError
from narfx.inputs.image_size import check_enlarging
from narfx.inputs.paths import named_paths, relocated
from narfx.runs.progress import Reporter, Silent
from narfx.space.architecture import Preprocessing
from narfx.support.devices import pick_device
from narfx.support.files import check_writable, read_json, write_json
from narfx.support.path_fields import DataSource, ModelReference, UserPath
from narfx.tasks.options import face_options
from narfx.tasks.precision import Precision, PrecisionName
from narfx.verbs.face_pairs import check_pairs, judge_pairs
from narfx.verbs.judging import MEMORY, judge_classes, parts_of, try_target
from narfx.verbs.target import Shape, Target, load_target

__all__ = ["EvaluateConfig", "evaluate"]


class EvaluateConfig(BaseModel):
    """Which network is evaluated, and on what.

    Args:
        target: What :func:`narfx.verbs.target.load_target` takes.
        data: A source of classes, or pairs of faces: a ``.bin``, or a folder with a list.
        task: ``classification`` or ``faces`` (pairs). Without it, pairs are what a ``.bin`` holds, or a folder
            for which ``pairs`` is given.
        task_options: Options of faces; ``grey="repeat"`` lets a network of several channels take grey images.
        pairs: The list of pairs of an image folder; without it ``pairs.txt`` in the folder.
        folds: Folds of the verification; without it as many as the list says, else ten.
        part: ``test``, ``val`` or ``train`` of a source of classes; without it the first of these that it has.
        weights: A state dict for the target.
        input: (C, H, W) of a model reference, or of an ONNX file that does not state it; of another target its own one,
            which says that smaller images are to be enlarged.
        batch_size: Images in a batch.
        precision: ``fp32``, or ``bf16`` for a torch network: see :class:`narfx.tasks.precision.Precision`.
        seed: Decides the values of a target that is built without weights.

    Raises:
        UsageError: An option has a wrong value, or belongs to the other task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: ModelReference
    data: DataSource
    task: Literal["classification", "faces"] | None = None
    task_options: dict[str, Any] = Field(default_factory=dict)
    pairs: UserPath | None = None
    folds: int | None = None
    part: str | None = None
    weights: UserPath | None = None
    input: Shape | None = None
    batch_size: int = 64
    precision: PrecisionName = "fp32"
    seed: int = Field(default=0, ge=0)

    @property
    def by_pairs(self) -> bool:
        """Whether pairs of faces are verified; otherwise images are classified."""
        if self.task is not None:
            return self.task == "faces"
        return self.pairs is not None or self.data.lower().endswith(".bin")

    @field_validator("task", mode="before")
    @classmethod
    def _known_task(cls, task: Any) -> Any:
        if task not in (None, "classification", "faces"):
            raise UsageError(
                f"unknown task {task!r}: choose classification or faces", where="--task", kind="unknown_task"
            )
        return task

    @field_validator("precision", mode="before")
    @classmethod
    def _known_precision(cls, name: Any) -> Any:
        if name not in get_args(PrecisionName):
            raise UsageError(f"unknown precision {name!r}: choose fp32 or bf16", where="--precision", kind="precision")
        return name

    @field_validator("batch_size")
    @classmethod
    def _at_least_one(cls, size: int) -> int:
        if size < 1:
            raise UsageError(
                f"the batch size is {size}: it must be at least 1", where="--batch-size", kind="batch_size"
            )
        return size

    @model_validator(mode="after")
    def _consistent(self) -> EvaluateConfig:
        pairs = {"--pairs": self.pairs, "--folds": self.folds, "--task-option": self.task_options or None}
        for option, value in ({"--part": self.part} if self.by_pairs else pairs).items():
            if value is not None:
                other = "classification" if self.by_pairs else "faces"
                raise UsageError(f"{option} belongs to --task {other}", where=option, kind="option_of_another_task")
        face_options(self.task_options)
        if self.precision != "fp32" and self.target.lower().endswith(".onnx"):
            raise UsageError(
                f"an ONNX file computes as it was exported: leave out --precision for {self.target}",
                where="--precision",
                kind="precision",
            )
        return self


def evaluate(
    config: EvaluateConfig,
    out: Path | str | None = None,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a network on data that it was not trained on.

    Args:
        config: The network and the data.
        out: A JSON file for the result; with pairs it also holds the ROC.
        device: Where a torch network runs; an ONNX file runs on the CPU.
        overwrite: Whether ``out`` may exist.
        reporter: Shows how far the work is.
        relative_to: The folder at which the configuration's paths start; without it the working folder.

    Returns:
        ``{"task", "accuracy", ...}``: with ``loss``, ``images`` and ``part`` for classes; for pairs as
        :meth:`narfx.tasks.verification.Verification.to_json` says.

    Raises:
        UsageError: The target, the data or an option is wrong, or the outputs are not finite or have no direction.
    """
    out, reporter, place = None if out is None else Path(out), reporter or Silent(), pick_device(device)
    _check_file(out, overwrite, named_paths(config, relative_to))
    config = relocated(config, Path.cwd(), start=relative_to) if relative_to is not None else config
    precision = Precision(config.precision, device_type=place.type)
    for note in precision.notes:
        reporter.say(note)
    data = (
        read_pairs(config.data, config.pairs, enlarge=config.input is not None)
        if config.by_pairs
        else read_source(config.data, config.input, MEMORY)
    )
    images = images_of(config.data, *([data.images] if isinstance(data, Pairs) else parts_of(data).values()))
    target = load_target(config.target, weights=config.weights, input=config.input, images=images, seed=config.seed)
    if target.origin is not None:
        reporter.say(target.origin)
    try_target(target, config.input, place)
    if isinstance(data, Pairs):
        found, roc = _pairs(target, data, config, precision, place, reporter)
    else:
        found, roc = _classes(target, data, config, precision, place, reporter), {}
    result = {**found, "target": Path(config.target).name, "weights": target.weights, "input": list(target.input)}
    if out is not None:
        write_json(out, {**result, **roc})
        result["files"] = {"result": str(out)}
    return result


def _check_file(out: Path | None, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Refuse a file for the result that may not be replaced, before any work is done."""
    if out is None:
        return
    if out.is_dir() or (out.exists() and not overwrite):
        raise UsageError(
            f"{out} exists: choose another name or add --overwrite", where=str(out), kind="output_exists"
        )  # fmt: skip
    check_writable(out)
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}: make it first", where=str(out), kind="not_writable")
    places = [path.resolve() for path in inputs]
    if out.exists() and any(out.resolve().is_relative_to(place) for place in places) and not _is_result(out):
        raise UsageError(
            f"{out} is an input of the command, or lies in one: choose another name for the result",
            where=str(out),
            kind="input_in_output",
        )


def _is_result(path: Path) -> bool:
    """Whether an earlier evaluation wrote this file; it may lie in the folder of the run that it is about."""
    try:
        value = read_json(path)
    except UsageError:
        return False
    return isinstance(value, dict) and {"task", "target", "accuracy"} <= value.keys()


def _pairs(
    target: Target, pairs: Pairs, config: EvaluateConfig, precision: Precision, device: torch.device, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, Any]]:
    repeat_grey = face_options(config.task_options).grey == "repeat"
    folds = check_pairs(pairs, config.data, config.folds, target.input[0], repeat_grey)
    _check_sizes(config, target, pairs.images)
    half = (0.5,) * target.input[0]
    used = target.preprocessing or Preprocessing(mean=half, std=half)
    verified = judge_pairs(
        partial(precision.apply, target.network),
        pairs,
        folds,
        target.input,
        mean=used.mean,
        std=used.std,
        batch_size=config.batch_size,
        device=device,
        reporter=reporter,
    )
    roc = {"roc": [{"far": far, "tar": tar, "threshold": cosine} for far, tar, cosine in verified.roc]}
    return {"task": "verification", "data": pairs.name, **verified.to_json()}, roc


def _check_sizes(config: EvaluateConfig, target: Target, *parts: Part) -> None:
    """Refuse images that would be enlarged, unless ``--input`` asks for it."""
    if config.input is None:
        check_enlarging(images_of(config.data, *parts), target.input, Path(config.target).name)


def _classes(
    target: Target,
    found: Source,
    config: EvaluateConfig,
    precision: Precision,
    device: torch.device,
    reporter: Reporter,
) -> dict[str, Any]:
    judged = judge_classes(
        target,
        found,
        config.data,
        config.part,
        name=Path(config.target).name,
        enlarge=config.input is not None,
        batch_size=config.batch_size,
        precision=precision,
        device=device,
    )
    for note in judged.notes:
        reporter.say(note)
    scores = judged.task.evaluate(partial(precision.apply, target.network), "test")
    if not math.isfinite(scores["loss"]):
        raise UsageError(
            "the network gives NaN or infinite logits: its weights are broken, or the images are normalised in another "
            "way than in training",
            kind="outputs_not_finite",
        )
    return {"task": "classification", "data": judged.task.data.short_name, "part": judged.part, **scores}
