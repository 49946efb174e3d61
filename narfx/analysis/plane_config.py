"""What ``narfx analyze landscape`` and ``variance`` look at, and the networks and images that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from torch import Tensor, nn

from narfx.analysis.plane import Plane
from narfx.data.digests import data_digest
from narfx.data.image_data import batches, images_of
from narfx.data.sources import read_source
from narfx.errors import UsageError
from narfx.inputs.paths import named_digests, relocated
from narfx.inputs.trust import out_of
from narfx.support.devices import pick_device
from narfx.support.path_fields import DataSource, ModelReference, UserPath
from narfx.support.seals import digest
from narfx.support.text import count
from narfx.tasks.classification import Classification
from narfx.tasks.precision import Precision
from narfx.verbs.judging import MEMORY, judge_classes, parts_of, try_target
from narfx.verbs.named_networks import shown
from narfx.verbs.target import Shape, load_target

__all__ = ["PlaneConfig", "Subject", "check_memory", "open_subjects"]

_POINT = 256  # bytes of one point of one network: its value, its text, and what the drawing makes of it
_FLOAT = 4


class PlaneConfig(BaseModel):
    """Networks, a plane through the weights of each, and the images on which every point is measured.

    Args:
        measure: The loss, or the variance of the gradient over minibatches.
        targets: What :func:`narfx.verbs.target.load_target` takes, but no ONNX file.
        names: What results call them, one each.
        weights: A state dict for each of them, or none at all.
        data: A source of classes.
        part: ``test``, ``val`` or ``train``; without it the first of these that the source has.
        images: At most so many images of the part, spread over the classes.
        batch_size: Images in a batch.
        input: (C, H, W), as for ``narfx evaluate``.
        grid: Points in each direction.
        reach: The grid goes from -reach to reach; 1 is the norm of the network's own filters.
        batchnorm: ``stored``: the statistics of the network's own weights, everywhere; ``batch``: those of each batch.
        memory: Refuse what would need more than so many gigabytes.
        seed: Decides the directions, and the values of a network that is built without weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    measure: Literal["loss", "variance"]
    targets: tuple[ModelReference, ...] = Field(min_length=1)
    names: tuple[str, ...]
    weights: tuple[UserPath, ...] = ()
    data: DataSource
    part: str | None = None
    images: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    input: Shape | None = None
    grid: int = Field(default=21, ge=2)
    reach: FiniteFloat = Field(default=1.0, gt=0)
    batchnorm: Literal["stored", "batch"] = "stored"
    memory: FiniteFloat = Field(default=4.0, gt=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> PlaneConfig:
        if len(self.names) != len(self.targets) or len(set(self.names)) != len(self.names):
            raise ValueError(f"there are {count(len(self.targets), 'network')}: give each one name of its own")
        if self.weights and len(self.weights) != len(self.targets):
            raise ValueError(
                f"there are {count(len(self.targets), 'network')} and {len(self.weights)} --weights: give one for each "
                "network, or none"
            )
        return self

    @property
    def axis(self) -> list[float]:
        """The coordinates of the grid, the same in both directions; symmetric, and exactly 0 in the middle."""
        last = self.grid - 1
        return [self.reach * (2 * index - last) / last for index in range(self.grid)]


@dataclass(frozen=True)
class Subject:
    """A network in eval mode on its device, its images in minibatches, and its plane.

    ``target`` and ``weights`` are texts for people, ``part`` names the part of the data.
    """

    name: str
    target: str
    weights: str
    network: nn.Module
    task: Classification
    part: str
    plane: Plane
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def batches(self, *, whole: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """The fixed minibatches, normalised, in one shuffled order; ``whole`` leaves out an incomplete last one."""
        return batches(self.task.data.val, self.task.batch_size, data=self.task.data, seed=0, drop_last=whole)


def open_subjects(
    config: PlaneConfig, *, device: str = "auto", relative_to: Path | None = None
) -> tuple[list[Subject], dict[str, str]]:
    """The networks, and digests of all that is read (:func:`narfx.runs.origin.check_reads`); nothing is written.

    Raises:
        UsageError: A network, its weights or the data are wrong or do not fit, or too much memory is needed.
    """
    place = pick_device(device)
    reads = named_digests(config, relative_to)
    here = relocated(config, Path.cwd(), start=relative_to) if relative_to is not None else config
    found = read_source(here.data, here.input, MEMORY)
    images = images_of(here.data, *parts_of(found).values())
    subjects = []
    for index, (name, target) in enumerate(zip(here.names, here.targets, strict=True)):
        weights = here.weights[index] if here.weights else None
        with out_of(relative_to):
            opened = load_target(target, weights=weights, input=here.input, images=images, seed=here.seed)
        try_target(opened, here.input, place)
        judged = judge_classes(
            opened, found, here.data, here.part, name=name, enlarge=here.input is not None,
            batch_size=here.batch_size, precision=Precision(device_type=place.type), device=place, most=here.images,
        )  # fmt: skip
        notes = (*([opened.origin] if opened.origin else []), *judged.notes)
        plane = Plane(opened.network, here.seed)
        subjects.append(
            Subject(name, shown(target, None), opened.weights, opened.network, judged.task, judged.part, plane, notes)
        )  # fmt: skip
        reads[f"the weights of {name}"] = _digest(opened.network.state_dict())
    reads["the images or labels"] = data_digest(found.classes, (found.train, found.val, found.test))
    check_memory(config, subjects)
    return subjects, reads


def _digest(state: Mapping[str, Any]) -> str:
    return digest(
        part
        for name, value in state.items()
        for part in (name, value.cpu().contiguous().numpy().tobytes() if isinstance(value, Tensor) else str(value))
    )


def check_memory(config: PlaneConfig, subjects: list[Subject]) -> None:
    """Refuse a grid, images or networks that need more memory than was allowed.

    Counted are the points of the grid, the images, and of each network its weights, their copy and both directions;
    for a variance also a gradient and two sums in float64. The activations of a batch are not counted.

    Raises:
        UsageError: They need more.
    """
    weights = _FLOAT * (4 + (5 if config.measure == "variance" else 0)) * sum(s.parameters for s in subjects)
    sizes = [len(s.task.data.val) * torch.Size(s.task.data.val.images(torch.tensor([0])).shape[1:]).numel()
             for s in subjects]  # fmt: skip
    points = _POINT * config.grid**2 * len(subjects)
    needed = (weights + _FLOAT * sum(sizes) + points) / 1e9
    if needed > config.memory:
        raise UsageError(
            f"a grid of {config.grid} x {config.grid} points with {count(len(subjects), 'network')} and "
            f"{count(len(subjects[0].task.data.val), 'image')} needs about {needed:.3g} GB, more than the "
            f"{config.memory:g} GB of --memory: use a smaller --grid or fewer --images, or allow more",
            where="--grid",
            kind="grid_too_large",
        )
