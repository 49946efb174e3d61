"""Training with a teacher: a trained network whose outputs the student imitates in addition to the task's own loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from narfx.compiler.open import base_start
from narfx.errors import UsageError
from narfx.graph.checks import check_values
from narfx.inputs.model_ref import load_model
from narfx.inputs.paths import find
from narfx.inputs.reference import ModelRef
from narfx.inputs.weights import apply_weights
from narfx.support.path_fields import ModelReference, UserPath
from narfx.tasks.task import Task
from narfx.training.checks import outputs

__all__ = ["Teacher", "TeacherOptions", "open_teacher"]

Shape = tuple[int, int, int]


class TeacherOptions(BaseModel):
    """Who teaches, and how much it counts.

    ``teacher`` is ``base``, the network that was refined; ``teacher_model`` names another one instead.
    ``teacher_weights`` are its weights.
    The loss is (1 - w) times the task's own plus w times the imitation, where w is ``teacher_weight``.
    ``temperature`` softens the distributions of a classifier; embeddings have none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: Literal["base"] | None = None
    teacher_model: ModelReference | None = None
    teacher_weights: UserPath | None = None
    teacher_weight: float = Field(default=0.9, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if self.teacher is not None and self.teacher_model is not None:
            raise ValueError("teacher and teacher_model name two teachers: leave one out")
        if self.teacher_weights is not None and not self.taught:
            raise ValueError("--teacher-weights belongs to --teacher, which says who teaches")
        return self

    @property
    def taught(self) -> bool:
        """Whether there is a teacher."""
        return self.teacher is not None or self.teacher_model is not None


class Teacher:
    """An objective: the loss of a student that also imitates this network.

    Distillation as in Hinton et al. (arXiv 1503.02531). The teacher sees the student's images, in eval mode, and does
    not change; it is trained and saved with nothing.

    Args:
        network: The teacher, on the device of the images.
        task: Its ``objective`` is the student's own loss, its ``imitation`` the other one.
        options: The weight and the temperature.
        weights: Where its weights come from, in words.
    """

    def __init__(self, network: nn.Module, task: Task, options: TeacherOptions, weights: str | None = None) -> None:
        self._network, self._task, self._options, self._weights = network.eval(), task, options, weights
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        task.precision.arrange(network)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of ``network`` on images (B, C, H, W) with labels (B,)."""
        task, weight = self._task, self._options.teacher_weight
        with torch.no_grad():
            wanted = task.precision.train(self._network, images)
        given = task.precision.train(network, images)
        imitation = task.imitation(given, wanted, self._options.temperature)
        return (1 - weight) * task.loss(given, labels) + weight * imitation

    def describe(self) -> dict[str, Any]:
        """What a metrics file says of the teacher."""
        options = self._options
        return {
            "model": "base" if options.teacher_model is None else ModelRef.parse(options.teacher_model).plain,
            "weights": self._weights,
            "weight": options.teacher_weight,
            "temperature": options.temperature,
        }


def open_teacher(
    options: TeacherOptions, base: nn.Module, weights: str, task: Task, shape: Shape, student: int,
    device: torch.device, relative_to: Path | None = None,
) -> Teacher:  # fmt: skip
    """The teacher that the options name, on its device.

    Args:
        options: They name a teacher.
        base: The network that ``base`` means, with its weights; it becomes the teacher, and is changed to eval mode.
        weights: Where the weights of ``base`` come from, in words.
        task: What the student learns.
        shape: (C, H, W) of one image.
        student: The number of the student's outputs.
        device: Where it computes.
        relative_to: The folder at which the options' paths start.

    Raises:
        UsageError: The model or its weights cannot be loaded, a weight is not finite, or its outputs are not the
            student's in number.
    """
    network = base
    if options.teacher_model is not None:
        if options.teacher_weights is None and not ModelRef.parse(options.teacher_model).may_be_trained:
            raise UsageError(
                f"{options.teacher_model} has random weights, and teaches nothing: name its weights with "
                "--teacher-weights",
                where="--teacher-weights",
                kind="missing_option",
            )
        network = load_model(options.teacher_model, relative_to=relative_to, seed=0)
        weights = base_start(options.teacher_model, options.teacher_weights)
        if options.teacher_weights is not None:
            apply_weights(network, find(options.teacher_weights, relative_to), source=options.teacher_weights)
    check_values(network)
    network.to(device)
    given = outputs(network, shape, device)
    if given != student:
        raise UsageError(
            f"the teacher has {given} outputs, but the network that it teaches has {student}: name a teacher with as "
            "many outputs",
            where="--teacher",
            kind="teacher_outputs",
        )
    return Teacher(network, task, options, weights)
