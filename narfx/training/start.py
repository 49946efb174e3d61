"""What every training needs before its first step: options, the task, and a network that fits it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from narfx.data.image_data import Opened
from narfx.graph.checks import check_values
from narfx.support.ranks import Ranks
from narfx.tasks.options import DataOptions, open_task
from narfx.tasks.task import Task
from narfx.training.checks import check_batches, outputs
from narfx.training.recipe import Recipe
from narfx.training.teacher import TeacherOptions

__all__ = ["TrainingOptions", "fit_to_task", "task_of"]

Shape = tuple[int, int, int]


class TrainingOptions(TeacherOptions, Recipe, DataOptions):
    """A recipe, the data that it is applied to, and a teacher where there is one."""


def task_of(
    options: TrainingOptions,
    input: Shape,
    *,
    seed: int,
    device: torch.device,
    relative_to: Path | None = None,
    opened: Opened | None = None,
) -> Task:
    """The task of a training, for networks of this ``input`` (C, H, W); ``seed`` decides the parts of the data.

    ``opened`` are the data, where they have been read to know the input.

    Raises:
        UsageError: The data or an option is wrong, or the device has no bfloat16.
    """
    return open_task(
        options,
        input,
        opened=opened,
        seed=seed,
        device=device,
        label_smoothing=options.label_smoothing,
        relative_to=relative_to,
        precision=options.compute_precision(device),
    )


def fit_to_task(network: nn.Module, task: Task, input: Shape, device: torch.device, ranks: Ranks | None = None) -> int:
    """Move a network to its device and try it on the task; the number of its outputs.

    The task's head is made for this network.

    Raises:
        UsageError: A weight is not finite, or the outputs or the size of a rank's share of a training batch do not fit.
    """
    check_values(network)
    network.to(device)
    size = outputs(network, input, device)
    task.check(size)
    check_batches(network, input, device, task.check_ranks(ranks or Ranks()))
    return size
