"""A comparison before its first training: which networks, on which data, all of it checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator

from narfx.data.image_data import Opened
from narfx.data.pairs import Pairs
from narfx.errors import UsageError
from narfx.inputs.image_size import check_enlarging
from narfx.inputs.paths import find
from narfx.support.devices import pick_device
from narfx.support.path_fields import NamedPath, UserPath
from narfx.support.ranks import Ranks
from narfx.support.text import count
from narfx.tasks.options import face_options, open_images
from narfx.tasks.task import Task
from narfx.training.method import Method, method_of
from narfx.training.start import TrainingOptions, fit_to_task, task_of
from narfx.training.teacher import Teacher, open_teacher
from narfx.verbs.contenders import Contender, Entrant, open_contender
from narfx.verbs.face_pairs import open_pairs
from narfx.verbs.front_points import named_targets
from narfx.verbs.start import SEEN, Placed

__all__ = ["CompareConfig", "Comparison", "prepare"]

Shape = tuple[int, int, int]


class CompareConfig(TrainingOptions):
    """A comparison by one recipe.

    ``target`` and the ``further`` ones are each an ``arch.json``, or ``NAME=arch.json``; ``names`` are what the results
    call them. Of a ``front.json`` so many ``points`` are compared, spread over its costs. ``outputs`` is ``keep``,
    ``auto`` (as many as the data have classes) or a number (the length of an embedding). ``input`` replaces the
    architectures' own input; only with it are smaller images enlarged. ``init`` is ``scratch``, ``inherit`` (every
    network starts from the ``weights`` of the base), or ``prepared`` (from the supernet of the search in the run
    ``prepared``, by default the folder of the ``target``). ``verify`` names pairs of faces (with the list ``pairs``, in
    ``folds``) on which every trained network is verified.
    """

    target: NamedPath
    further: tuple[NamedPath, ...] = ()
    names: tuple[str, ...] = ()
    weights: UserPath | None = None
    init: Literal["inherit", "scratch", "prepared"] = "scratch"
    prepared: UserPath | None = None
    outputs: Literal["keep", "auto"] | PositiveInt = "keep"
    input: Shape | None = None
    verify: UserPath | None = None
    pairs: UserPath | None = None
    folds: int | None = None
    points: int = Field(default=3, ge=1)
    seeds: int = Field(default=3, ge=1)
    randoms: int = Field(default=8, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> CompareConfig:
        if self.outputs == "auto" and self.task == "faces":
            raise ValueError("--outputs auto is for classes: give the length of an embedding as a number")
        if self.outputs != "keep" and self.init != "scratch":
            raise ValueError("--outputs gives the networks a new last layer, which no weights fit: use --init scratch")
        if self.outputs != "keep" and self.teacher is not None:
            raise ValueError("--outputs gives the base a new last layer, so it cannot teach: name a MODEL as --teacher")
        if self.teacher is not None and self.teacher_weights is not None:
            raise ValueError("--teacher base has the weights of the base (--weights): leave out --teacher-weights")
        if self.verify is not None and self.task != "faces":
            raise ValueError("--verify belongs to --task faces")
        if self.verify is None and (self.pairs is not None or self.folds is not None):
            raise ValueError("--pairs and --folds belong to --verify, which names the images of the pairs")
        return self


@dataclass(frozen=True)
class Comparison:
    """The networks to compare and what trains them.

    ``tasks`` has one task for each input shape, ``sizes`` the number of outputs of each contender. ``verified`` are the
    pairs of faces and their folds, if there are any.
    """

    config: CompareConfig
    device: torch.device
    targets: tuple[Placed, ...]
    contenders: tuple[Contender, ...]
    tasks: Mapping[Shape, Task]
    method: Method
    sizes: tuple[int, ...]
    teachers: tuple[Teacher | None, ...]
    verified: tuple[Pairs, int] | None
    notes: tuple[str, ...]


def prepare(
    config: CompareConfig, *, device: str = "auto", relative_to: Path | None = None, ranks: Ranks | None = None
) -> Comparison:
    """Trace every base, draw the random vectors, load the data, and check that they fit; nothing is written.

    ``target`` and ``further`` are paths here, and ``names`` their names, if there are any.

    Raises:
        UsageError: A target, the weights, the data or an option is wrong.
    """
    place = pick_device(device)
    method = method_of(config, relative_to=relative_to)
    if config.init == "inherit" and config.weights is None:
        raise UsageError(
            "--init inherit starts every network from the weights of the base: name them with --weights",
            where="--weights",
            kind="missing_option",
        )
    targets = _targets(config, relative_to)
    opened = open_images(config, relative_to, config.input)
    contenders = tuple(
        _open(config, target, name, opened, relative_to)
        for target, name in zip(targets, config.names or ("refined",), strict=True)
    )
    if config.init != "scratch" and len({contender.base_of for contender in contenders}) > 1:
        raise UsageError(
            f"--init {config.init} starts from the weights of one base, and these architectures have several bases: "
            "compare architectures of one base, or use --init scratch",
            where="--init",
            kind="several_bases",
        )
    tasks = {
        shape: task_of(config, shape, seed=config.seed, device=place, relative_to=relative_to, opened=opened)
        for shape in dict.fromkeys(contender.traced.input for contender in contenders)
    }
    verified = _pairs(config, contenders, relative_to)
    notes = _notes(config, contenders, tasks)
    sizes = tuple(_check(contender, tasks[contender.traced.input], place, ranks) for contender in contenders)
    teachers = tuple(
        _teacher(config, contender, tasks[contender.traced.input], size, place, relative_to)
        for contender, size in zip(contenders, sizes, strict=True)
    )
    method.check(contenders[0].traced.graph_module)
    return Comparison(config, place, targets, contenders, tasks, method, sizes, teachers, verified, notes)


def _teacher(
    config: CompareConfig, contender: Contender, task: Task, size: int, device: torch.device, start: Path | None
) -> Teacher | None:
    """Who teaches the networks of this contender; the base itself has its own weights where they were named."""
    if not config.taught:
        return None
    traced = contender.traced
    if config.teacher is not None and config.weights is None and contender.prepared is None:
        raise UsageError(
            "--teacher base needs the weights of the base: name them with --weights",
            where="--weights",
            kind="missing_option",
        )
    base = contender.network(traced.space.base)
    return open_teacher(config, base, contender.weights, task, traced.input, size, device, start)


def _targets(config: CompareConfig, start: Path | None) -> tuple[Placed, ...]:
    texts: list[tuple[str | None, str]] = [(None, path) for path in (config.target, *config.further)]
    targets = tuple(target for _, _, target in named_targets(texts, start, config.points))
    names = config.names or ("refined",)
    if len(names) != len(targets):
        raise UsageError(
            f"there are {count(len(targets), 'architecture')} and {count(len(names), 'name')}: give one name for each",
            where="names",
            kind="bad_config",
        )
    return targets


def _open(config: CompareConfig, target: Placed, name: str, opened: Opened, start: Path | None) -> Contender:
    architecture, place = target
    wanted = None if isinstance(config.outputs, str) else config.outputs
    contender = open_contender(
        architecture,
        name,
        randoms=config.randoms,
        seed=config.seed,
        place=place,
        weights=None if config.weights is None else str(find(config.weights, start)),
        outputs=len(opened.found.classes) if config.outputs == "auto" else wanted,
        input=config.input,
        images=opened.images,
        prepared=find(str(config.prepared), start) if config.init == "prepared" else None,
    )
    if config.input is None:
        check_enlarging(opened.images, contender.traced.input, name if config.names else Path(config.target).name)
    return contender


def _pairs(config: CompareConfig, contenders: tuple[Contender, ...], start: Path | None) -> tuple[Pairs, int] | None:
    if config.verify is None:
        return None
    repeat_grey = face_options(config.task_options).grey == "repeat"
    source = str(find(config.verify, start))
    listed = None if config.pairs is None else str(find(config.pairs, start))
    networks = {contender.traced.input: contender.model for contender in contenders}
    return open_pairs(source, listed, config.folds, networks, repeat_grey, enlarge=config.input is not None)


def _notes(config: CompareConfig, contenders: tuple[Contender, ...], tasks: Mapping[Shape, Task]) -> tuple[str, ...]:
    notes = [note for contender in contenders for note in contender.traced.notes]
    for task in tasks.values():
        notes += task.notes
    if config.init != "scratch":
        notes.insert(0, f"weights: {contenders[0].weights}")
        if any(task.data.test is None and task.data.val_from_train for task in tasks.values()):
            notes.append(SEEN)
    return tuple(dict.fromkeys(notes))


def _check(contender: Contender, task: Task, device: torch.device, ranks: Ranks | None) -> int:
    """Try the base on its task; the number of its outputs."""
    network = Entrant("base", contender, contender.traced.space.base).network()
    try:
        return fit_to_task(network, task, contender.traced.input, device, ranks)
    except UsageError as error:
        if error.kind != "too_few_outputs":
            raise
        raise UsageError(f"{error}, or give --outputs auto", where=error.where, kind=error.kind) from error
