"""Stand-alone training of an architecture's network, or of its base, as a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import fx, nn

from narfx.compiler.modes import settle_training
from narfx.compiler.open import DEFAULT_INPUT, open_architecture
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import default_input, load_model
from narfx.inputs.paths import find, relocated
from narfx.inputs.weights import apply_weights, write_weights
from narfx.runs.folder import RunFolder, interruptible
from narfx.runs.progress import Reporter, Silent
from narfx.space.architecture import Architecture, Preprocessing
from narfx.support.devices import pick_device
from narfx.support.files import write_json
from narfx.support.path_fields import ModelReference, UserPath
from narfx.support.schema import validated
from narfx.tasks.task import Task
from narfx.training.fit import fit
from narfx.training.initialise import kept, reinitialise
from narfx.training.start import TrainingOptions, fit_to_task, task_of
from narfx.training.teacher import Teacher, open_teacher
from narfx.verbs.start import SEEN, Placed, create_run, open_target

__all__ = ["PreparedTraining", "TrainConfig", "prepare", "resume_train", "train"]

Shape = tuple[int, int, int]

_FILES = {"weights": "weights.safetensors", "metrics": "metrics.json", "events": "events.jsonl"}


class TrainConfig(TrainingOptions):
    """Stand-alone training of ``target``, an ``arch.json`` or a model reference (then its base network is trained).

    ``base`` trains the base of the architecture instead. ``init`` is ``inherit`` (start from ``weights``, or from
    those that the architecture names) or ``scratch``.
    """

    target: ModelReference
    base: bool = False
    weights: UserPath | None = None
    init: Literal["inherit", "scratch"] = "inherit"
    input: Shape | None = None
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class PreparedTraining:
    """A training that is checked and ready: the network on its device, and its task.

    ``target`` is the architecture as its file gives it, ``trained`` the one that the network is of; both are ``None``
    for a model reference. ``warm`` says that the network starts from weights that have learnt something.
    """

    config: TrainConfig
    network: fx.GraphModule
    input: Shape
    task: Task
    notes: tuple[str, ...]
    warm: bool
    target: Placed | None
    trained: Placed | None
    teacher: Teacher | None = None


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Train one network; the run directory ``out`` gets ``weights.safetensors`` and ``metrics.json``.

    Where the target is an architecture, ``out`` also gets an ``arch.json`` that names these weights and the mean and
    standard deviation of the training: it is what ``apply`` takes next.

    Returns:
        ``{"params", "macs", "vector", "epochs", "loss", "val", "test", "files"}``.

    Raises:
        UsageError: The target, the data or an option is wrong; ``out`` is not touched.
        RunError: The loss became NaN or the machine ran out of memory or disk; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    prepared = prepare(config, device=device, relative_to=relative_to)
    targets = [] if prepared.target is None else [prepared.target]
    folder = create_run(config, Path(out), targets, relative_to, overwrite=overwrite)
    return _run(prepared, folder, reporter or Silent())


def resume_train(out: Path | str, *, device: str = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Resume the training in ``out`` from its last checkpoint; arguments and errors as for ``train``."""
    folder = RunFolder.open(Path(out))
    config = validated(TrainConfig, folder.config(), str(folder.path / "config.json"))
    return _run(prepare(config, device=device, relative_to=folder.path), folder, reporter or Silent())


def prepare(config: TrainConfig, *, device: str = "auto", relative_to: Path | None = None) -> PreparedTraining:
    """Build the network, load the data, and check that they fit; nothing is written.

    Raises:
        UsageError: The target, the weights, the data or an option is wrong.
    """
    place = pick_device(device)
    target = open_target(config.target, relative_to)
    opened = _open_model(config, relative_to) if target is None else _open_architecture(config, target, relative_to)
    task = task_of(config, opened.input, seed=config.seed, device=place, relative_to=relative_to)
    notes = [*opened.notes, *task.data.notes]
    if config.init == "scratch":
        notes += kept(reinitialise(opened.network, config.seed))
    elif opened.warm and task.data.val_from_train:
        notes.append(SEEN)
    size = fit_to_task(opened.network, task, opened.input, place)
    teacher = _teacher(config, target, task, opened.input, size, place, relative_to)
    return PreparedTraining(
        config=config,
        network=opened.network,
        input=opened.input,
        task=task,
        notes=tuple(notes),
        warm=opened.warm and config.init == "inherit",
        target=target,
        trained=None if target is None or opened.complete is None else Placed(opened.complete, target.place),
        teacher=teacher,
    )


def _teacher(
    config: TrainConfig, target: Placed | None, task: Task, shape: Shape, size: int, device: torch.device,
    start: Path | None,
) -> Teacher | None:  # fmt: skip
    """The teacher that the configuration names, if it names one."""
    if not config.taught:
        return None
    base: nn.Module = nn.Identity()
    if config.teacher is not None:
        if config.teacher_weights is None:
            raise UsageError(
                "--teacher base needs the weights of the base: name them with --teacher-weights",
                where="--teacher-weights",
                kind="missing_option",
            )
        weights = str(find(config.teacher_weights, start))
        if target is None:
            base = load_model(config.target, relative_to=start, seed=config.seed)
            apply_weights(base, weights)
        else:
            base = open_architecture(target.architecture.as_base(), relative_to=target.place, weights=weights).network
    return open_teacher(config, base, task, shape, size, device, start)


@dataclass(frozen=True)
class _Opened:
    """A network with the weights that were named; ``warm`` where there were any, ``complete`` its architecture."""

    network: fx.GraphModule
    input: Shape
    notes: list[str]
    warm: bool
    complete: Architecture | None


def _open_architecture(config: TrainConfig, target: Placed, start: Path | None) -> _Opened:
    wanted = target.architecture.as_base() if config.base else target.architecture
    weights = _weights(config, start)
    lowered = open_architecture(wanted, relative_to=target.place, weights=weights, seed=config.seed)
    traced = lowered.traced
    return _Opened(
        lowered.network,
        traced.input,
        [f"weights: {lowered.weights}", *traced.notes],
        weights is not None or wanted.weights is not None,
        traced.architecture(wanted.check(traced.space)),
    )


def _open_model(config: TrainConfig, start: Path | None) -> _Opened:
    """A model as a graph, also where nothing of it can be refined."""
    model, weights = load_model(config.target, relative_to=start, seed=config.seed), _weights(config, start)
    done = None if weights is None else apply_weights(model, weights)
    traced = trace_graph(model)
    settle_training(traced)
    shape = config.input or default_input(config.target, relative_to=start) or DEFAULT_INPUT
    notes = [f"weights {Path(str(weights)).name}: {done}"] if done else []
    return _Opened(traced.graph_module, shape, [*notes, *traced.notes], weights is not None, None)


def _weights(config: TrainConfig, start: Path | None) -> str | None:
    return None if config.weights is None else str(find(config.weights, start))


def _run(prepared: PreparedTraining, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
    """Train to the end and write the result."""
    files, trained = dict(_FILES), prepared.trained
    with folder, interruptible(folder):
        for note in prepared.notes:
            reporter.say(note)
        metrics = fit(
            prepared.network,
            prepared.task,
            prepared.config,
            seed=prepared.config.seed,
            folder=folder,
            reporter=reporter,
            label="train",
            trained=prepared.warm,
            objective=prepared.teacher,
        )
        write_weights(prepared.network, folder.path / files["weights"])
        described = {"vector": None} if trained is None else trained.architecture.describe()
        result = {**measure(prepared.network, prepared.input), **described, **metrics}
        write_json(folder.path / files["metrics"], result)
        if trained is not None:
            files["arch"] = "arch.json"
            _result(prepared, trained, folder.path, metrics).save(folder.path / files["arch"])
    return {**result, "files": {key: str(folder.path / name) for key, name in files.items()}}


def _result(prepared: PreparedTraining, trained: Placed, folder: Path, metrics: dict[str, Any]) -> Architecture:
    """The architecture of the trained network, as a file in ``folder``."""
    task, config = prepared.task, prepared.config
    measured = {part: metrics[part]["accuracy"] for part in ("val", "test") if part in metrics}
    return relocated(trained.architecture, folder, start=trained.place).model_copy(
        update={
            "weights": _FILES["weights"],
            "preprocessing": Preprocessing(mean=task.data.mean, std=task.data.std),
            "metrics": {
                "data": task.data.short_name,
                "epochs": config.epochs,
                "metric": task.metric,
                "accuracy": measured,
            },
            "seed": config.seed,
        }
    )
