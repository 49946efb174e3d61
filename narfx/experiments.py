"""Stand-alone training of an architecture or its base, and the comparison with random vectors of equal cost."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import fx

from narfx.architecture import Architecture
from narfx.compiler import lower
from narfx.config import validated
from narfx.cost import measure
from narfx.errors import UsageError
from narfx.files import read_json, write_bytes, write_json
from narfx.model_ref import default_input, load_model
from narfx.networks import NetworkOptions, beside, find, from_folder, open_architecture
from narfx.progress import Reporter, Silent
from narfx.run import RunFolder, interruptible
from narfx.sampling import sample_window
from narfx.seeds import numpy_generator
from narfx.space import Vector
from narfx.supernet import Supernet
from narfx.tasks.classification import Classification
from narfx.tasks.options import DataOptions, open_task
from narfx.traced import Traced
from narfx.tracing import trace_graph
from narfx.training import Recipe, fit, outputs, pick_device, reinitialise
from narfx.weights import apply_weights

__all__ = ["CompareConfig", "TrainConfig", "compare", "resume_compare", "resume_train", "train"]


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


class CompareConfig(Recipe, DataOptions):
    """Base, refined and random vectors of equal cost, trained by one recipe over several seeds."""

    target: str
    weights: str | None = None
    init: Literal["inherit", "scratch"] = "scratch"
    seeds: int = Field(default=3, ge=1)
    randoms: int = Field(default=8, ge=0)
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
    """Train one network; writes ``weights.safetensors`` and ``metrics.json`` into the run directory ``out``.

    Returns:
        ``{"params", "macs", "vector", "epochs", "loss", "val", "test", "files"}``.

    Raises:
        UsageError: The target, the data or an option is wrong; ``out`` is untouched then.
        RunError: The loss became NaN or the machine ran out of something; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    out = Path(out)
    prepared = _Training(config, device, relative_to)
    stored = _stored(config, out, relative_to)
    folder = RunFolder.create(out, stored, overwrite=overwrite)
    return prepared.run(folder, reporter or Silent())


def resume_train(out: Path | str, *, device: str = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Go on with the training in ``out`` from its last checkpoint."""
    folder = RunFolder.open(Path(out))
    config = validated(TrainConfig, folder.config(), str(folder.path / "config.json"))
    return _Training(config, device, folder.path).run(folder, reporter or Silent())


class _Training:
    """One network and its task, checked and ready."""

    def __init__(self, config: TrainConfig, device: str, relative_to: Path | None) -> None:
        self.config, self.device = config, pick_device(device)
        self.notes: list[str] = []
        architecture, folder = _target(config.target, relative_to)
        weights = None if config.weights is None else str(find(config.weights, relative_to))
        if architecture is None:
            options = NetworkOptions(model=config.target, input=config.input)
            self.network, self.input = _plain_base(options, weights, folder, config.seed)
            self.vector: Vector | None = None
        else:
            if config.base:
                architecture = architecture.model_copy(
                    update={"vector": (0,) * len(architecture.vector), "weights": None}
                )
            lowered = open_architecture(architecture, relative_to=folder, weights=weights, seed=config.seed)
            self.network, self.input = lowered.network, lowered.traced.input
            self.vector = lowered.traced.space.validate(architecture.vector)
            self.notes.append(f"weights: {lowered.weights}")
        self.task = open_task(
            config, self.input, seed=config.seed, device=self.device, label_smoothing=config.label_smoothing
        )
        if config.init == "scratch":
            reinitialise(self.network, config.seed)
        elif config.weights is not None and self.task.data.val_from_train:
            self.notes.append("warning: the weights given may have seen the images that validation holds out")
        self.notes += self.task.data.notes
        self.network.to(self.device)
        self.task.check(outputs(self.network, self.input, self.device))

    def run(self, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        """Train to the end and write what came of it."""
        config = self.config
        with folder, interruptible(folder):
            for note in self.notes:
                reporter.say(note)
            metrics = fit(
                self.network, self.task, config, seed=config.seed, folder=folder, reporter=reporter, label="train"
            )
            _save_weights(self.network, folder.path / "weights.safetensors")
            cost = measure(self.network, self.input)
            result = {**cost, "vector": list(self.vector) if self.vector is not None else None, **metrics}
            write_json(folder.path / "metrics.json", result)
        files = {"weights": "weights.safetensors", "metrics": "metrics.json", "events": "events.jsonl"}
        return {**result, "files": {key: str(folder.path / name) for key, name in files.items()}}


def compare(
    config: CompareConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Train the base, the refined network and random vectors of equal MACs, each over the same seeds.

    The random vectors are uniform over those within 2 % below the refined network's MACs. Writes ``comparison.json``;
    a comparison that is interrupted goes on with the network and the epoch where it stopped.

    Returns:
        ``{"rows": [{"name", "vector", "params", "macs", "accuracies", "mean", "standard_error", ...}], "part", ...}``;
        the accuracy is on the test part where the data have one, else on the validation part.

    Raises:
        As ``train``.
    """
    out = Path(out)
    prepared = _Comparison(config, device, relative_to)
    stored = _stored(config, out, relative_to)
    folder = RunFolder.create(out, stored, overwrite=overwrite)
    return prepared.run(folder, reporter or Silent())


def resume_compare(out: Path | str, *, device: str = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Go on with the comparison in ``out``."""
    folder = RunFolder.open(Path(out))
    config = validated(CompareConfig, folder.config(), str(folder.path / "config.json"))
    return _Comparison(config, device, folder.path).run(folder, reporter or Silent())


class _Comparison:
    """The vectors to compare and what trains them."""

    def __init__(self, config: CompareConfig, device: str, relative_to: Path | None) -> None:
        self.config, self.device = config, pick_device(device)
        architecture, folder = _target(config.target, relative_to)
        if architecture is None:
            raise UsageError(
                f"compare takes an arch.json, not {config.target!r}", where=config.target, kind="not_an_architecture"
            )
        weights = None if config.weights is None else str(find(config.weights, relative_to))
        base = architecture.model_copy(update={"vector": (0,) * len(architecture.vector), "weights": None})
        opened = open_architecture(base, relative_to=folder, weights=weights, seed=config.seed)
        self.traced: Traced = opened.traced
        vector = architecture.check(self.traced.space)
        self.vectors = {"base": self.traced.space.base, "refined": vector, **self._randoms(vector)}
        self.task: Classification = open_task(
            config, self.traced.input, seed=config.seed, device=self.device, label_smoothing=config.label_smoothing
        )
        self.task.check(outputs(self.traced.graph_module.to(self.device), self.traced.input, self.device))
        self.traced.graph_module.cpu()

    def _randoms(self, vector: Vector) -> dict[str, Vector]:
        space, macs = self.traced.space, self.traced.space.cost(vector)["macs"]
        drawn = sample_window(
            space, self.config.randoms, 0.98 * macs, macs, numpy_generator(self.config.seed, "compare"),
            exclude=frozenset({vector}),
        )  # fmt: skip
        return {f"random {index + 1}": found for index, found in enumerate(drawn)}

    def run(self, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        """Train what is not trained yet, and write the table."""
        config = self.config
        part = "test" if self.task.data.test is not None else "val"
        with folder, interruptible(folder, resumable=True):
            for note in self.task.data.notes:
                reporter.say(note)
            rows = [self._row(name, vector, part, folder, reporter) for name, vector in self.vectors.items()]
            result = {"part": part, "seeds": config.seeds, "rows": rows, **_summary(rows)}
            write_json(folder.path / "comparison.json", result)
        return {**result, "files": {"comparison": str(folder.path / "comparison.json")}}

    def _row(self, name: str, vector: Vector, part: str, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        accuracies = [
            self._accuracy(name, vector, config_seed, part, folder, reporter)
            for config_seed in range(self.config.seed, self.config.seed + self.config.seeds)
        ]
        return {
            "name": name,
            "vector": list(vector),
            **{metric: int(value) for metric, value in self.traced.space.cost(vector).items()},
            "accuracies": accuracies,
            **mean_and_error(accuracies),
        }

    def _accuracy(
        self, name: str, vector: Vector, seed: int, part: str, folder: RunFolder, reporter: Reporter
    ) -> float:
        """Train one vector with one seed, in a run directory of its own; a finished one is only read."""
        label = f"{name}, seed {seed}"
        place = folder.path / "runs" / f"{name.replace(' ', '-')}-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        own = RunFolder(place)
        if (place / "metrics.json").is_file():
            return float(read_json(place / "metrics.json")[part]["accuracy"])
        network: fx.GraphModule = lower(Supernet(self.traced), vector)
        if self.config.init == "scratch":
            reinitialise(network, seed)
        network.to(self.device)
        metrics = fit(network, self.task, self.config, seed=seed, folder=own, reporter=reporter, label=label)
        _save_weights(network, place / "weights.safetensors")
        write_json(place / "metrics.json", metrics)
        (place / "checkpoint.pt").unlink(missing_ok=True)
        folder.event("trained", name=name, seed=seed, vector=list(vector), **metrics)
        return float(metrics[part]["accuracy"])


def mean_and_error(values: list[float]) -> dict[str, float | None]:
    """The mean and its standard error (``None`` for a single value, which has no spread to measure)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "standard_error": error}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Refined against random, in one sentence and two numbers."""
    refined = next(row for row in rows if row["name"] == "refined")
    means = [row["mean"] for row in rows if row["name"].startswith("random")]
    if not means:
        return {"random": None, "verdict": "no other vector has a cost within 2 % below: nothing to compare with"}
    spread = mean_and_error(means)
    better = sum(refined["mean"] > mean for mean in means)
    said = "beat" if better == len(means) else "did NOT beat all of"
    text = (
        f"the refined network ({refined['mean']:.4f}) {said} the {len(means)} random vectors of equal MACs "
        f"(mean {spread['mean']:.4f}, best {max(means):.4f}; better than {better})"
    )
    return {"random": {"vectors": len(means), "best": max(means), **spread}, "verdict": text}


def _target(target: str, relative_to: Path | None) -> tuple[Architecture | None, Path | None]:
    """The architecture that ``target`` names, with its folder; ``None`` for a model reference."""
    if not target.endswith(".json"):
        return None, relative_to
    path = find(target, relative_to)
    return Architecture.load(path), path.parent


def _stored(config: TrainConfig | CompareConfig, out: Path, relative_to: Path | None) -> dict[str, Any]:
    """The configuration as the run directory holds it: paths of models, architectures and weights start there."""
    values = config.model_dump(mode="json")
    if config.target.endswith(".json"):
        values["target"] = from_folder(config.target, out, relative_to=relative_to)
    else:
        values["target"] = beside(config.target, out, relative_to=relative_to)
    if config.weights is not None:
        values["weights"] = from_folder(config.weights, out, relative_to=relative_to)
    return values


def _plain_base(
    options: NetworkOptions, weights: str | None, folder: Path | None, seed: int
) -> tuple[fx.GraphModule, tuple[int, int, int]]:
    """A model as a graph, also where nothing of it can be refined."""
    model = load_model(options.model, relative_to=folder, seed=seed)
    if weights is not None:
        apply_weights(model, weights)
    shape = options.input or default_input(options.model, relative_to=folder) or (3, 224, 224)
    return trace_graph(model).graph_module, shape


def _save_weights(network: fx.GraphModule, path: Path) -> None:
    from safetensors.torch import save

    state = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    write_bytes(path, save(state))
