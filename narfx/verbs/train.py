"""Stand-alone training of an architecture's network, or of its base, as a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx

from narfx.graph.cost import measure
from narfx.inputs.image_size import check_enlarging
from narfx.inputs.paths import relocated
from narfx.inputs.weights import write_weights
from narfx.runs.finished import extend, finished_result
from narfx.runs.folder import RunFolder
from narfx.runs.interruption import interruptible
from narfx.runs.origin import check_reads, resumed_config
from narfx.runs.progress import Reporter, Silent
from narfx.runs.tensorboard import check_tensorboard, follow, write_tensorboard
from narfx.space.architecture import Architecture, Preprocessing
from narfx.space.network_record import NetworkRecord
from narfx.support.devices import pick_device
from narfx.support.ranks import Ranks
from narfx.support.seals import write_sealed
from narfx.support.text import count
from narfx.tasks.options import open_images
from narfx.tasks.task import Task
from narfx.training.about import about
from narfx.training.estimate import Estimate, duration, training_seconds
from narfx.training.fit import fit
from narfx.training.initialise import kept, random_start, reinitialise
from narfx.training.method import Method, check_extension, method_facts, method_of
from narfx.training.same_inputs import check_same_inputs
from narfx.training.start import fit_to_task, task_of
from narfx.training.teacher import Teacher
from narfx.verbs.start import SEEN, Placed, check_out, create_run, open_target, reads_of
from narfx.verbs.training_target import TrainConfig, open_network, open_own_teacher

__all__ = ["PreparedTraining", "TrainConfig", "estimate_train", "prepare", "resume_train", "train"]

_FILES = {"weights": "weights.safetensors", "metrics": "metrics.json", "events": "events.jsonl"}
_ARCH = "arch.json"


@dataclass(frozen=True)
class PreparedTraining:
    """A training that is checked and ready: the network on its device, and its task.

    ``target`` is the architecture as its file gives it, ``trained`` the one that the network is of; both are ``None``
    for a model reference. ``warm`` says that the network starts from weights that have learnt something, ``start`` says
    in words from which. ``record`` is what a report shows of the network.
    """

    config: TrainConfig
    network: fx.GraphModule
    input: tuple[int, int, int]
    task: Task
    method: Method
    notes: tuple[str, ...]
    warm: bool
    start: str
    record: NetworkRecord
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
    tensorboard: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Train one network; the run directory ``out`` gets ``weights.safetensors`` and ``metrics.json``.

    Where the target is an architecture, ``out`` also gets an ``arch.json`` that names these weights and the mean and
    standard deviation of the training: it is what ``apply`` takes next. With ``tensorboard`` it gets scalars as well
    (:mod:`narfx.runs.tensorboard`). Several ``ranks`` share each batch; rank 0 alone writes, and has a result.

    Returns:
        ``{"params", "macs", "vector", "starting_weights", "epochs", "loss", "val", "test", "files"}``.

    Raises:
        UsageError: The target, the data or an option is wrong; ``out`` is not touched.
        RunError: The loss became NaN or the machine ran out of memory or disk; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    ranks = ranks or Ranks()
    check_tensorboard(tensorboard)
    check_out(config, Path(out), relative_to, overwrite=overwrite)
    prepared = prepare(config, device=device, relative_to=relative_to, ranks=ranks)
    targets = [] if prepared.target is None else [prepared.target]
    reads = reads_of(config, relative_to, targets, [prepared.network], [prepared.task])
    check_same_inputs(ranks, config, reads)
    known = about([prepared.record], prepared.task, pick_device(device))
    folder = create_run(
        config, Path(out), targets, relative_to, overwrite=overwrite, reads=reads, about=known, ranks=ranks
    )  # fmt: skip
    if tensorboard and ranks.first:
        follow(folder)
    return _run(prepared, folder, reporter or Silent())


def estimate_train(
    config: TrainConfig, *, device: str = "auto", relative_to: Path | None = None, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Check a training and measure on one process how long it will take by these ``ranks``; nothing is written.

    Returns:
        ``{"dry_run": True, "estimate": {"seconds", "epochs", "training_steps"}, "message", "notes"}``; errors as for
        ``train``.
    """
    prepared = prepare(config, device=device, relative_to=relative_to, ranks=ranks)
    task, steps = prepared.task, prepared.task.steps_per_epoch
    seconds = training_seconds(prepared.network, task, config, prepared.method, ranks)
    text = (
        f"train: {count(config.epochs, 'epoch')} of {count(steps, 'step')}, {count(len(task.data.train), 'image')} to "
        f"train on; about {duration(seconds)} at the speed just measured"
    )
    numbers = {"epochs": config.epochs, "training_steps": config.epochs * steps}
    return Estimate(text, seconds, numbers, prepared.notes).shared(ranks or Ranks()).to_json()


def resume_train(
    out: Path | str,
    *,
    epochs: int | None = None,
    device: str = "auto",
    previous: bool = False,
    reporter: Reporter | None = None,
    tensorboard: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Resume the training in ``out`` from its last checkpoint; arguments and errors as for ``train``.

    With ``previous`` from the checkpoint before. What the run began with and reads must not have changed. The result of
    a finished run is read from its files. With ``epochs`` a run, finished or not, gets so many epochs in all, and ends
    as a run that was started with them.
    """
    ranks = ranks or Ranks()
    check_tensorboard(tensorboard)
    folder, reporter = RunFolder.open(Path(out), previous=previous, ranks=ranks), reporter or Silent()
    folder.check_seen()
    config = resumed_config(folder.path, TrainConfig)
    if epochs is not None:
        check_extension(config, relative_to=folder.path)
        extend(folder, epochs, (_FILES["metrics"], _ARCH))
        config = config.model_copy(update={"epochs": epochs})
    elif (found := finished_result(folder, _FILES["metrics"], reporter if ranks.first else Silent())) is not None:
        if tensorboard and ranks.first:
            write_tensorboard(folder.path)
        return {**found, "files": _places(folder, (folder.path / _ARCH).is_file())}
    prepared = prepare(config, device=device, relative_to=folder.path, ranks=ranks)
    targets = [] if prepared.target is None else [prepared.target]
    reads = reads_of(config, folder.path, targets, [prepared.network], [prepared.task])
    check_reads(folder.path, reads)
    check_same_inputs(ranks, config, reads)
    if tensorboard and ranks.first:
        follow(folder)
    return _run(prepared, folder, reporter)


def prepare(
    config: TrainConfig, *, device: str = "auto", relative_to: Path | None = None, ranks: Ranks | None = None
) -> PreparedTraining:
    """Build the network, load the data, and check that they fit; nothing is written.

    Raises:
        UsageError: The target, the weights, the data or an option is wrong.
    """
    place = pick_device(device)
    method = method_of(config, relative_to=relative_to)
    target = open_target(config.target, relative_to)
    data = open_images(config, relative_to, config.input)
    opened = open_network(config, target, data.images, relative_to)
    if config.input is None:
        check_enlarging(data.images, opened.input, Path(config.target).name)
    task = task_of(config, opened.input, seed=config.seed, device=place, relative_to=relative_to, opened=data)
    notes = [*opened.notes, *task.notes]
    if config.init == "scratch":
        notes += kept(reinitialise(opened.network, config.seed))
    elif opened.warm and task.data.val_from_train:
        notes.append(SEEN)
    size = fit_to_task(opened.network, task, opened.input, place, ranks)
    method.check(opened.network)
    teacher = open_own_teacher(config, target, task, opened.input, size, place, relative_to)
    return PreparedTraining(
        config=config,
        network=opened.network,
        input=opened.input,
        task=task,
        method=method,
        notes=tuple(notes),
        warm=opened.warm and config.init == "inherit",
        start=opened.start if config.init == "inherit" else random_start(config.seed),
        record=opened.record,
        target=target,
        trained=None if target is None or opened.complete is None else Placed(opened.complete, target.place),
        teacher=teacher,
    )


def _run(prepared: PreparedTraining, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
    """Train to the end and write the result."""
    trained = prepared.trained
    reporter = reporter if folder.ranks.first else Silent()
    with folder, interruptible(folder):
        folder.check_seen()
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
            method=prepared.method,
            objective=prepared.teacher,
            ranks=folder.ranks,
        )
        if not folder.ranks.first:
            return {}
        write_weights(prepared.network, folder.path / _FILES["weights"])
        described = {"vector": None} if trained is None else trained.architecture.describe()
        result = {
            **measure(prepared.network, prepared.input),
            **described,
            "starting_weights": prepared.start,
            **metrics,
            **method_facts(prepared.config),
        }
        if trained is not None:
            _result(prepared, trained, folder.path, metrics).save(folder.path / _ARCH)
        write_sealed(folder.path / _FILES["metrics"], result)  # last: where it exists, all is complete
    return {**result, "files": _places(folder, trained is not None)}


def _places(folder: RunFolder, has_arch: bool) -> dict[str, str]:
    files = {**_FILES, "arch": _ARCH} if has_arch else _FILES
    return {key: str(folder.out / name) for key, name in files.items()}


def _result(prepared: PreparedTraining, trained: Placed, folder: Path, metrics: dict[str, Any]) -> Architecture:
    """The architecture of the trained network, as a file in ``folder``."""
    task, config = prepared.task, prepared.config
    known = {} if prepared.target is None else prepared.target.architecture.metrics
    measured = {part: metrics[part]["accuracy"] for part in ("val", "test") if part in metrics}
    return relocated(trained.architecture, folder, start=trained.place).model_copy(
        update={
            "weights": _FILES["weights"],
            "preprocessing": Preprocessing(mean=task.data.mean, std=task.data.std),
            "metrics": {
                **{key: known[key] for key in ("budget",) if key in known},
                "data": task.data.short_name,
                "starting_weights": prepared.start,
                "epochs": config.epochs,
                "metric": task.metric,
                "accuracy": measured,
                **method_facts(config),
            },
            "seed": config.seed,
        }
    )
