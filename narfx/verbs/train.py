"""Stand-alone training of an architecture's network, or of its base, as a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import fx

from narfx.compiler.modes import settle_training
from narfx.compiler.open import NetworkOptions, open_architecture
from narfx.graph.checks import check_values
from narfx.graph.cost import measure
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import default_input, load_model
from narfx.inputs.paths import find, move, move_model, move_operators, move_source
from narfx.inputs.weights import apply_weights, write_weights
from narfx.runs.folder import RunFolder, interruptible
from narfx.runs.progress import Reporter, Silent
from narfx.space.architecture import Architecture, Preprocessing
from narfx.support.devices import pick_device
from narfx.support.files import write_json
from narfx.support.schema import validated
from narfx.tasks.options import DataOptions, open_task
from narfx.training.checks import check_batches, outputs
from narfx.training.fit import fit
from narfx.training.initialise import kept, reinitialise
from narfx.training.recipe import Recipe

__all__ = ["TrainConfig", "create_run", "open_target", "resume_train", "train"]

TARGET = "target.json"
SEEN = "warning: the weights it starts from may have seen the images that validation holds out; --val-data names others"


class TrainConfig(Recipe, DataOptions):
    """Stand-alone training of ``target``, an ``arch.json`` or a model reference (which means its base network).

    ``init`` is ``inherit`` (from the weights that are given, or that the architecture names) or ``scratch``.
    """

    target: str
    base: bool = False
    weights: str | None = None
    init: Literal["inherit", "scratch"] = "inherit"
    input: tuple[int, int, int] | None = None
    seed: int = Field(default=0, ge=0)


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

    A target that is an architecture also gives ``arch.json``, which names these weights and the mean and standard
    deviation that they were trained with: it is what ``apply`` wants next.

    Returns:
        ``{"params", "macs", "vector", "epochs", "loss", "val", "test", "files"}``.

    Raises:
        UsageError: The target, the data or an option is wrong; ``out`` is untouched then.
        RunError: The loss became NaN or the machine ran out of something; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    out = Path(out)
    prepared = _Training(config, device, relative_to)
    folder = create_run(config, out, prepared.architecture, relative_to, overwrite=overwrite)
    return prepared.run(folder, reporter or Silent())


def resume_train(out: Path | str, *, device: str = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Go on with the training in ``out`` from its last checkpoint; arguments and errors as for ``train``."""
    folder = RunFolder.open(Path(out))
    config = validated(TrainConfig, folder.config(), str(folder.path / "config.json"))
    return _Training(config, device, folder.path).run(folder, reporter or Silent())


class _Training:
    """One network and its task, checked and ready."""

    def __init__(self, config: TrainConfig, device: str, start: Path | None) -> None:
        self.config, self.device = config, pick_device(device)
        self.architecture, place = open_target(config.target, start)
        self.complete: Architecture | None = None
        weights = None if config.weights is None else str(find(config.weights, start))
        if self.architecture is None:
            options = NetworkOptions(model=config.target, input=config.input)
            self.network, self.input, self.notes = _plain_base(options, weights, place, config.seed)
            inherits = weights is not None
        else:
            wanted = self.architecture
            if config.base:
                wanted = wanted.as_base()
            lowered = open_architecture(wanted, relative_to=place, weights=weights, seed=config.seed)
            self.network, self.input = lowered.network, lowered.traced.input
            self.complete = lowered.traced.architecture(wanted.check(lowered.traced.space))
            self.model_folder = place
            self.notes = [f"weights: {lowered.weights}", *lowered.traced.notes]
            inherits = weights is not None or wanted.weights is not None
        self.task = open_task(
            config,
            self.input,
            seed=config.seed,
            device=self.device,
            label_smoothing=config.label_smoothing,
            relative_to=start,
            precision=config.compute_precision(self.device),
        )
        self.notes += self.task.data.notes
        self.trained = inherits and config.init == "inherit"
        if config.init == "scratch":
            self.notes += kept(reinitialise(self.network, config.seed))
        elif inherits and self.task.data.val_from_train:
            self.notes.append(SEEN)
        check_values(self.network)
        self.network.to(self.device)
        self.task.check(outputs(self.network, self.input, self.device))
        check_batches(self.network, self.input, self.device, min(config.batch_size, len(self.task.data.train)))

    def run(self, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        """Train to the end and write what came of it."""
        config = self.config
        files = {"weights": "weights.safetensors", "metrics": "metrics.json", "events": "events.jsonl"}
        with folder, interruptible(folder):
            for note in self.notes:
                reporter.say(note)
            metrics = fit(
                self.network,
                self.task,
                config,
                seed=config.seed,
                folder=folder,
                reporter=reporter,
                label="train",
                trained=self.trained,
            )
            write_weights(self.network, folder.path / files["weights"])
            described = {"vector": None} if self.complete is None else self.complete.describe()
            result = {**measure(self.network, self.input), **described, **metrics}
            write_json(folder.path / files["metrics"], result)
            if self.complete is not None:
                files["arch"] = "arch.json"
                self._architecture(folder.path, metrics).save(folder.path / files["arch"])
        return {**result, "files": {key: str(folder.path / name) for key, name in files.items()}}

    def _architecture(self, folder: Path, metrics: dict[str, Any]) -> Architecture:
        assert self.complete is not None
        data = self.task.data
        measured = {part: metrics[part]["accuracy"] for part in ("val", "test") if part in metrics}
        return self.complete.model_copy(
            update={
                "model": move_model(self.complete.model, folder, start=self.model_folder),
                "operator_files": move_operators(self.complete.operator_files, folder, start=self.model_folder),
                "weights": "weights.safetensors",
                "preprocessing": Preprocessing(mean=data.mean, std=data.std),
                "metrics": {
                    "data": data.short_name,
                    "epochs": self.config.epochs,
                    "metric": self.task.metric,
                    "accuracy": measured,
                },
                "seed": self.config.seed,
            }
        )


def open_target(target: str, start: Path | None) -> tuple[Architecture | None, Path | None]:
    """The architecture that ``target`` names and the folder its paths start at; ``None`` for a model reference."""
    if not target.endswith(".json"):
        return None, start
    path = find(target, start)
    return Architecture.load(path), path.parent


def create_run(
    config: Recipe,
    out: Path,
    architecture: Architecture | None,
    start: Path | None,
    *,
    overwrite: bool,
    further: Sequence[Architecture] = (),
) -> RunFolder:
    """A run directory whose paths start there, with a copy of the architecture: what changes outside is no matter.

    Of a comparison, ``further`` architectures are those that its configuration names behind the target.
    """
    values: dict[str, Any] = config.model_dump(mode="json")
    named = ("target", "weights", "data", "verify", "pairs")
    inputs = [find(values[key], start) for key in named if values.get(key) is not None]
    files: dict[str, Any] = {}
    if architecture is None:
        values["target"] = move_model(values["target"], out, start=start)
    else:
        targets = [find(target, start) for target in (values["target"], *values.get("further", ()))]
        names = [TARGET, *(f"target-{number}.json" for number in range(2, len(targets) + 1))]
        values["target"] = TARGET
        if further:
            values["further"] = names[1:]
        for name, target, own in zip(names, targets, (architecture, *further), strict=True):
            inputs += [target, *(find(file, target.parent) for file in own.operator_files)]
            files[name] = _moved(own, target.parent, out).model_dump(mode="json", exclude_none=True)
    for key in ("weights", "verify", "pairs"):
        if values.get(key) is not None:
            values[key] = move(values[key], out, start=start)
    for key in ("data", "val_data"):
        if values[key] is not None:
            values[key] = move_source(values[key], out, start=start)
    return RunFolder.create(out, values, overwrite=overwrite, inputs=inputs, files=files)


def _moved(architecture: Architecture, start: Path, out: Path) -> Architecture:
    """An architecture whose paths, so far seen from ``start``, start at ``out``."""
    moved: dict[str, Any] = {
        "model": move_model(architecture.model, out, start=start),
        "operator_files": move_operators(architecture.operator_files, out, start=start),
    }
    if architecture.weights is not None:
        moved["weights"] = move(architecture.weights, out, start=start)
    return architecture.model_copy(update=moved)


def _plain_base(
    options: NetworkOptions, weights: str | None, folder: Path | None, seed: int
) -> tuple[fx.GraphModule, tuple[int, int, int], list[str]]:
    """A model as a graph, also where nothing of it can be refined."""
    model = load_model(options.model, relative_to=folder, seed=seed)
    if weights is not None:
        apply_weights(model, weights)
    traced = trace_graph(model)
    settle_training(traced)
    shape = options.input or default_input(options.model, relative_to=folder) or (3, 224, 224)
    return traced.graph_module, shape, traced.notes
