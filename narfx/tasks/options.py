"""The data of a command, and the task on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from narfx.data.augment import find_augmentation
from narfx.data.image_data import load_data
from narfx.errors import UsageError
from narfx.inputs.paths import find_source
from narfx.support.path_fields import CodeReference, DataSource
from narfx.support.schema import validated
from narfx.tasks.classification import Classification
from narfx.tasks.faces import FaceOptions, Faces
from narfx.tasks.precision import Precision
from narfx.tasks.task import Task

__all__ = ["DataOptions", "face_options", "open_task"]


class DataOptions(BaseModel):
    """A data source, how much of it is used, and the task.

    ``augment`` is one of narfx's or a factory of the user's, and defaults to that of the data; ``task_options`` are
    options of the task ``faces``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataSource = "digits"
    val_data: DataSource | None = None
    data_fraction: float = Field(default=1.0, gt=0, le=1)
    max_train_images: int | None = Field(default=None, ge=1)
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    augment: CodeReference | None = None
    batch_size: int = Field(default=128, ge=1)
    task: Literal["classification", "faces"] = "classification"
    task_options: dict[str, Any] = Field(default_factory=dict)


def face_options(options: Mapping[str, Any]) -> FaceOptions:
    """The options of the task ``faces``.

    Raises:
        UsageError: There is no such option, or a value is out of range.
    """
    return validated(FaceOptions, dict(options), "--task-option", kind="task_options")


def open_task(
    options: DataOptions,
    input_shape: tuple[int, int, int],
    *,
    seed: int,
    device: torch.device,
    label_smoothing: float = 0.0,
    relative_to: Path | None = None,
    precision: Precision | None = None,
) -> Task:
    """Load the data for a network of this input shape, as a task.

    Faces are normalised to [-1, 1], as in ArcFace.

    Raises:
        UsageError: The data are missing, malformed or do not fit together, or the task has no such option.
    """
    faces = face_options(options.task_options) if options.task == "faces" else None
    channels = input_shape[0]
    augment = find_augmentation(options.augment, input_shape, relative_to=relative_to)
    data = load_data(
        find_source(options.data, relative_to),
        input_shape,
        seed=seed,
        fraction=options.data_fraction,
        most=options.max_train_images,
        val_data=None if options.val_data is None else find_source(options.val_data, relative_to),
        val_fraction=options.val_fraction,
        device=device,
        repeat_grey=faces is None or faces.grey == "repeat",
        normalise=None if faces is None else ((0.5,) * channels, (0.5,) * channels),
    )
    if faces is not None:
        return Faces(
            data,
            faces,
            batch_size=options.batch_size,
            augment=augment,
            label_smoothing=label_smoothing,
            device=device,
            precision=precision,
        )
    if options.task_options:
        raise UsageError(
            f"classification has no option {', '.join(options.task_options)}: --task-option belongs to --task faces",
            where="--task-option",
            kind="task_options",
        )
    return Classification(
        data,
        batch_size=options.batch_size,
        augment=augment,
        label_smoothing=label_smoothing,
        precision=precision,
    )
