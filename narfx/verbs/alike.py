"""Several networks trained alike: the same data, the same seeds, one recipe, and a look at each after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import fx, nn

from narfx.compiler.open import NetworkOptions, open_base
from narfx.compiler.supernet import Supernet
from narfx.graph.copying import copy_module
from narfx.graph.cost import measure
from narfx.inputs.weights import write_weights
from narfx.runs.events import Epoch, Trained, iter_events
from narfx.runs.finished import tell_trained
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.space.network_record import NetworkRecord
from narfx.support.path_fields import ModelReference
from narfx.support.seals import read_sealed, write_sealed
from narfx.support.text import count
from narfx.tasks.task import Task
from narfx.training.about import about
from narfx.training.estimate import Estimate, duration, training_seconds
from narfx.training.fit import AfterEpoch, fit
from narfx.training.initialise import reinitialise
from narfx.training.start import TrainingOptions, fit_to_task
from narfx.verbs.named_networks import shown
from narfx.verbs.start import reads_of
from narfx.verbs.train import PreparedTraining, TrainConfig, prepare

__all__ = [
    "AlikeConfig", "Trainee", "Training", "about_alike", "estimate_alike", "prepare_alike", "reads_alike",
    "train_alike",
]  # fmt: skip

_METRICS = "metrics.json"


class AlikeConfig(TrainingOptions):
    """Networks that are trained alike from random weights.

    ``targets`` are ``arch.json`` files or model references, ``names`` what results call them. ``input`` is (C, H, W) of
    one image, for all. Each network is trained with ``seeds`` seeds, from ``seed`` on; the first also decides the
    parts of the data.
    """

    targets: tuple[ModelReference, ...] = Field(min_length=1)
    names: tuple[str, ...]
    input: tuple[int, int, int] | None = None
    seeds: int = Field(default=3, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _named(self) -> AlikeConfig:
        if len(self.names) != len(self.targets) or len(set(self.names)) != len(self.names):
            raise ValueError(f"there are {count(len(self.targets), 'network')}: give each one name of its own")
        return self


@dataclass(frozen=True)
class Trainee:
    """A network to be trained with each seed: on its device and checked. ``target`` is its reference for people."""

    name: str
    target: str
    network: nn.Module
    prepared: PreparedTraining

    @property
    def task(self) -> Task:
        """The data, as the network takes them."""
        return self.prepared.task

    @property
    def graph(self) -> fx.GraphModule:
        """The traced network."""
        return self.prepared.network

    def describe(self) -> dict[str, Any]:
        """``name``, ``target``, ``params`` and ``macs``; ``macs`` are those of the base of a mixture."""
        cost = measure(self.graph, self.prepared.input)
        params = sum(parameter.numel() for parameter in self.network.parameters())
        return {"name": self.name, "target": self.target, "params": params, "macs": cost["macs"]}


@dataclass(frozen=True)
class Training:
    """One training with one seed: the metrics of its end, and its epochs with what was seen after them."""

    seed: int
    metrics: dict[str, Any]
    epochs: tuple[Epoch, ...]


def prepare_alike(
    config: AlikeConfig, wanted: Iterable[tuple[str, str, bool]], *, device: str, relative_to: Path | None
) -> list[Trainee]:
    """Build the networks, load the data, and check that they fit; nothing is written.

    Args:
        config: The recipe and the data.
        wanted: For each network its name, its reference, and whether it is a supernet in which every site computes the
            mean of all its legal operators.
        device: The name of the device.
        relative_to: The folder at which paths start; without it the working folder.

    Raises:
        UsageError: A network, the data or an option is wrong.
        NothingToRefineError: A network that shall be a mixture has no site with a choice.
    """
    shared = config.model_dump(include=set(TrainingOptions.model_fields) | {"input", "seed"})
    tasks: dict[Any, Task] = {}
    found = []
    for name, target, mixed in wanted:
        prepared = prepare(TrainConfig(**shared, target=target, init="scratch"), device=device, relative_to=relative_to)
        # Networks of one input share one copy of the images.
        prepared = replace(prepared, task=tasks.setdefault(prepared.input, prepared.task))
        network = _mixture(target, prepared, config.seed, relative_to) if mixed else prepared.network
        found.append(Trainee(name, shown(target, relative_to), network, prepared))
    return found


def _mixture(target: str, prepared: PreparedTraining, seed: int, start: Path | None) -> Supernet:
    traced = open_base(NetworkOptions(model=target, input=prepared.input), relative_to=start, seed=seed)
    net = Supernet(traced)
    net.set_mixture(
        [
            [1 / len(slot.legal) if k in slot.legal else 0.0 for k in range(len(slot.choices))]
            for slot in traced.space.slots
        ]
    )
    fit_to_task(net, prepared.task, prepared.input, _device(prepared.network))
    return net


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def reads_alike(config: AlikeConfig, trainees: Sequence[Trainee], start: Path | None) -> dict[str, str]:
    """Digests of all that a run reads (:func:`narfx.runs.origin.check_reads`)."""
    tasks = list({id(trainee.task): trainee.task for trainee in trainees}.values())
    return reads_of(config, start, [], [each.graph for each in trainees], tasks)


def about_alike(trainees: Sequence[Trainee]) -> dict[str, Any]:
    """The values of ``about.json`` (:mod:`narfx.training.about`)."""
    return about([_record(trainee) for trainee in trainees], trainees[0].task, _device(trainees[0].network))


def _record(trainee: Trainee) -> NetworkRecord:
    return trainee.prepared.record.model_copy(update={"name": trainee.name})


def estimate_alike(
    name: str, config: AlikeConfig, trainees: Sequence[Trainee], *, more: float = 0, besides: str = ""
) -> dict[str, Any]:
    """How long all trainings take at the speed of this moment, as the result of ``--dry-run``.

    ``besides`` says what is done after each epoch, which takes ``more`` times as long as the training itself.
    """
    each = [training_seconds(t.network, t.task, config, t.prepared.method) for t in trainees]
    seconds, trainings = (1 + more) * config.seeds * sum(each), config.seeds * len(trainees)
    text = (
        f"{name}: {count(len(trainees), 'network')}, {count(config.seeds, 'seed')}, so {count(trainings, 'training')} "
        f"of {count(config.epochs, 'epoch')}{besides}; about {duration(seconds)} at the speed just measured"
    )
    return Estimate(text, seconds, {"trainings": trainings, "epochs": config.epochs}).to_json()


def train_alike(
    config: AlikeConfig,
    trainee: Trainee,
    look: Callable[[Task, int], AfterEpoch],
    folder: RunFolder,
    reporter: Reporter,
) -> list[Training]:
    """Train a network once with each seed, each in a run ``runs/NAME-SEED`` of its own.

    A training that is finished is only read, one that was interrupted goes on from its checkpoint. Its folder keeps
    ``weights.safetensors``.

    Args:
        config: The recipe.
        trainee: The network; it is not changed.
        look: Gives for a task and a seed what looks at the network after each epoch; what that returns is in the
            events.
        folder: The run.
        reporter: Shows how far the trainings are.

    Raises:
        RunError: The loss became NaN or the machine ran out of memory or disk.
    """
    return [
        _train(config, trainee, look, seed, folder, reporter) for seed in range(config.seed, config.seed + config.seeds)
    ]


def _train(
    config: AlikeConfig, trainee: Trainee, look: Callable[[Task, int], AfterEpoch], seed: int, folder: RunFolder,
    reporter: Reporter,
) -> Training:  # fmt: skip
    place = folder.part(f"runs/{trainee.name}-{seed}")
    if not (place.path / _METRICS).is_file():
        network, task = copy_module(trainee.network), trainee.task
        reinitialise(network, seed)
        fit_to_task(network, task, trainee.prepared.input, _device(trainee.network))
        metrics = fit(
            network,
            task,
            config,
            seed=seed,
            folder=place,
            reporter=reporter,
            label=f"{trainee.name}, seed {seed}",
            objective=trainee.prepared.teacher,
            method=trainee.prepared.method,
            after_epoch=look(task, seed),
        )
        write_weights(network, place.path / "weights.safetensors")
        write_sealed(place.path / _METRICS, metrics)  # after the first checkpoint the run has its place
    metrics = read_sealed(place.path / _METRICS, f"delete the folder {place.path}, and this network is trained again")
    tell_trained(folder, place, Trained(name=trainee.name, seed=seed, more=metrics))
    return Training(seed, metrics, tuple(iter_events(place.path, Epoch)))
