"""The network that a training names: with the weights that it starts from, and with its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import fx, nn

from narfx.compiler.modes import settle_training
from narfx.compiler.open import base_start, open_architecture
from narfx.compiler.outline import network_record, outline
from narfx.errors import UsageError
from narfx.graph.tracing import trace_graph
from narfx.inputs.image_size import Images, choose_input
from narfx.inputs.model_ref import load_model
from narfx.inputs.paths import find
from narfx.inputs.reference import ModelRef
from narfx.inputs.weights import apply_weights
from narfx.space.architecture import Architecture
from narfx.space.network_record import NetworkRecord
from narfx.support.path_fields import ModelReference, UserPath
from narfx.support.text import times
from narfx.tasks.task import Task
from narfx.training.start import TrainingOptions
from narfx.training.teacher import Teacher, open_teacher
from narfx.verbs.start import Placed

__all__ = ["OpenedNetwork", "TrainConfig", "open_network", "open_own_teacher"]

Shape = tuple[int, int, int]


class TrainConfig(TrainingOptions):
    """Stand-alone training of ``target``, an ``arch.json`` or a model reference (then its base network is trained).

    ``base`` trains the base of the architecture instead. ``init`` is ``inherit`` (start from ``weights``, or from
    those that the architecture names for the network that is trained) or ``scratch``. ``input`` is that of a model; of
    an architecture its own one, which says that smaller images are to be enlarged.
    """

    target: ModelReference
    base: bool = False
    weights: UserPath | None = None
    init: Literal["inherit", "scratch"] = "inherit"
    input: Shape | None = None
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class OpenedNetwork:
    """A network with the weights that were named; ``warm`` where there were any, ``complete`` its architecture.

    ``record`` is what a report shows of it.
    """

    network: fx.GraphModule
    input: Shape
    start: str
    notes: list[str]
    record: NetworkRecord
    warm: bool
    complete: Architecture | None


def open_network(config: TrainConfig, target: Placed | None, images: Images, start: Path | None) -> OpenedNetwork:
    """The network of an architecture, or of a model where ``target`` is ``None``.

    Raises:
        UsageError: The target or its weights are wrong, or do not fit.
    """
    if target is None:
        return _open_model(config, start, images)
    return _open_architecture(config, target, start, images)


def open_own_teacher(
    config: TrainConfig, target: Placed | None, task: Task, shape: Shape, size: int, device: torch.device,
    start: Path | None,
) -> Teacher | None:  # fmt: skip
    """The teacher that the configuration names, if it names one; arguments as for ``open_teacher``.

    Raises:
        UsageError: The base shall teach and its weights are not known, or what is named is wrong.
    """
    if not config.taught:
        return None
    base: nn.Module = nn.Identity()
    named = ""
    if config.teacher is not None:
        weights = _teachers_weights(config, target, start)
        named = base_start(config.target, str(weights))
        if target is None:
            base = load_model(config.target, relative_to=start, seed=config.seed)
            apply_weights(base, weights)
        else:
            base = open_architecture(
                target.architecture.as_base(), relative_to=target.place, weights=str(weights)
            ).network
    return open_teacher(config, base, named, task, shape, size, device, start)


def _teachers_weights(config: TrainConfig, target: Placed | None, start: Path | None) -> Path:
    """The weights of a base that teaches: those that were named, else those that the search started from."""
    if config.teacher_weights is not None:
        return find(config.teacher_weights, start)
    if target is not None and target.architecture.base_weights is not None:
        return find(target.architecture.base_weights, target.place)
    raise UsageError(
        "--teacher base needs the weights of the base: name them with --teacher-weights",
        where="--teacher-weights",
        kind="missing_option",
    )


def _open_architecture(config: TrainConfig, target: Placed, start: Path | None, images: Images) -> OpenedNetwork:
    weights, wanted = _weights(config, start), target.architecture
    if config.base:
        own = _own_weights(config, wanted) if weights is None and config.init == "inherit" else None
        wanted = wanted.as_base().model_copy(update={"weights": own})
    if config.input is not None:
        if wanted.input not in (None, config.input):
            raise UsageError(
                f"{config.target} is for inputs of {times(wanted.input)}, not {times(config.input)}: leave out --input",
                where="--input",
                kind="input_shape",
            )
        wanted = wanted.model_copy(update={"input": config.input})
    lowered = open_architecture(wanted, relative_to=target.place, weights=weights, seed=config.seed, images=images)
    traced = lowered.traced
    vector = wanted.check(traced.space)
    plain = ModelRef.parse(wanted.model).plain
    return OpenedNetwork(
        lowered.network,
        traced.input,
        lowered.weights,
        [f"weights: {lowered.weights}", *traced.notes],
        network_record(traced, "base" if config.base else "refined", vector, model=plain),
        weights is not None or wanted.weights is not None,
        traced.architecture(vector, init=target.architecture.init, base_weights=target.architecture.base_weights),
    )


def _own_weights(config: TrainConfig, architecture: Architecture) -> str | None:
    """The weights of the base that the search started from; ``None`` for those that the model itself is built with.

    Raises:
        UsageError: They are not known, while the architecture has trained weights: the base would start worse.
    """
    if architecture.base_weights is not None or architecture.init == "base" or architecture.weights is None:
        return architecture.base_weights
    cause = (
        "the search started from scratch, so its base has no trained weights"
        if architecture.init == "scratch"
        else "it does not say which weights its base had"
    )
    raise UsageError(
        f"{config.target} has trained weights for its own network, but {cause}: name weights of the base with "
        "--weights, or train both networks with --init scratch",
        where=config.target,
        kind="base_weights_unknown",
    )


def _open_model(config: TrainConfig, start: Path | None, images: Images) -> OpenedNetwork:
    """A model as a graph, also where nothing of it can be refined."""
    model, weights = load_model(config.target, relative_to=start, seed=config.seed), _weights(config, start)
    done = None if weights is None else apply_weights(model, weights)
    traced = trace_graph(model)
    settle_training(traced)
    shape, origin = config.input, None
    if shape is None:
        shape, origin = choose_input(config.target, model, images, relative_to=start)
    notes = [f"weights {Path(str(weights)).name}: {done}"] if done else []
    notes += [origin] if origin else []
    named = base_start(config.target, weights)
    plain = ModelRef.parse(config.target).plain
    record = NetworkRecord(name="base", model=plain, input=shape, nodes=tuple(outline(traced.graph_module)))
    return OpenedNetwork(traced.graph_module, shape, named, [*notes, *traced.notes], record, weights is not None, None)


def _weights(config: TrainConfig, start: Path | None) -> str | None:
    return None if config.weights is None else str(find(config.weights, start))
