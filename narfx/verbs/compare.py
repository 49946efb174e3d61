"""Architectures, their bases and random vectors of equal cost, trained alike over several seeds, side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from narfx.compiler.open import DEFAULT_INPUT
from narfx.errors import UsageError
from narfx.graph.checks import check_values
from narfx.inputs.model_ref import default_input
from narfx.inputs.paths import find
from narfx.inputs.weights import write_weights
from narfx.runs.folder import RunFolder, interruptible
from narfx.runs.progress import Reporter, Silent
from narfx.support.devices import pick_device
from narfx.support.files import read_json, write_json
from narfx.support.schema import validated
from narfx.tasks.options import DataOptions, face_options, open_task
from narfx.tasks.task import Task
from narfx.training.checks import check_batches, outputs
from narfx.training.fit import fit
from narfx.training.initialise import reinitialise
from narfx.training.recipe import Recipe
from narfx.verbs.compare_rows import beside, spread_of, verdict
from narfx.verbs.contenders import Contender, Entrant, labels, named, open_contender
from narfx.verbs.evaluate import judge_pairs, open_pairs
from narfx.verbs.train import SEEN, create_run, open_target

__all__ = ["CompareConfig", "compare", "resume_compare"]

Shape = tuple[int, int, int]


class CompareConfig(Recipe, DataOptions):
    """A comparison by one recipe.

    ``target`` and the ``further`` ones are each an ``arch.json``, or ``NAME=arch.json``; ``names`` are how results call
    them. ``outputs`` is ``keep``, ``auto`` (as many as the data have classes) or a number (the length of an embedding).
    ``input`` is another input than the architectures' own. ``init`` is ``scratch``, or ``inherit``: from the base's
    ``weights``, which every operator is then started from. ``verify`` are pairs of faces, of the list ``pairs`` in
    ``folds``, on which every trained network is verified.
    """

    target: str
    further: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    weights: str | None = None
    init: Literal["inherit", "scratch"] = "scratch"
    outputs: Literal["keep", "auto"] | PositiveInt = "keep"
    input: Shape | None = None
    verify: str | None = None
    pairs: str | None = None
    folds: int | None = None
    seeds: int = Field(default=3, ge=1)
    randoms: int = Field(default=8, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> CompareConfig:
        if self.outputs == "auto" and self.task == "faces":
            raise ValueError("--outputs auto is for classes: give the length of an embedding as a number")
        if self.outputs != "keep" and self.init == "inherit":
            raise ValueError("--outputs gives the networks a fresh last layer, which no weights fit: --init scratch")
        if self.verify is not None and self.task != "faces":
            raise ValueError("--verify belongs to --task faces")
        if self.verify is None and (self.pairs is not None or self.folds is not None):
            raise ValueError("--pairs and --folds belong to --verify, which names the images of the pairs")
        return self


def compare(
    config: CompareConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Train each architecture, its base and random vectors of equal MACs, all over the same seeds.

    The random vectors are uniform over those within 2 % below the architecture's MACs, operators and skips together
    where it has a skip domain. A base that several architectures share is trained once. Writes ``comparison.json``;
    a comparison that is interrupted goes on with the network and the epoch where it stopped.

    Returns:
        ``{"rows": [{"name", "vector", "params", "macs", "accuracies", "mean", "standard_error"}], "part", "metric",
        "architectures": [{"name", "kind", "network", "base", "random", ...}], "verdict"}``; the accuracy is on the test
        part where the data have one, else on the validation part. With pairs to verify on, rows have a
        ``"verification"`` with the accuracies of that.

    Raises:
        UsageError: A target, the data or an option is wrong; ``out`` is untouched then.
        RunError: The loss became NaN or the machine ran out of something; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    out = Path(out)
    config = _with_names(config, relative_to)
    prepared = _Comparison(config, device, relative_to)
    first, *further = (contender.architecture for contender in prepared.contenders)
    folder = create_run(config, out, first, relative_to, overwrite=overwrite, further=further)
    return prepared.run(folder, reporter or Silent())


def resume_compare(out: Path | str, *, device: str = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Go on with the comparison in ``out``; arguments and errors as for ``compare``."""
    folder = RunFolder.open(Path(out))
    config = validated(CompareConfig, folder.config(), str(folder.path / "config.json"))
    return _Comparison(config, device, folder.path).run(folder, reporter or Silent())


def _with_names(config: CompareConfig, start: Path | None) -> CompareConfig:
    """The configuration with paths apart from names; a single architecture without a name is ``refined``."""
    given = [named(text) for text in (config.target, *config.further)]
    names, paths = [name for name, _ in given], [path for _, path in given]
    if not config.names and (len(paths) > 1 or names[0] is not None):
        config = config.model_copy(update={"names": labels([find(path, start) for path in paths], names)})
    return config.model_copy(update={"target": paths[0], "further": tuple(paths[1:])})


class _Comparison:
    """The networks to compare and what trains them."""

    def __init__(self, config: CompareConfig, device: str, start: Path | None) -> None:
        self.config, self.device, self.start = config, pick_device(device), start
        if config.init == "inherit" and config.weights is None:
            raise UsageError(
                "--init inherit starts every network from the base's weights: name them with --weights",
                where="--weights",
                kind="missing_option",
            )
        self.tasks: dict[Shape, Task] = {}
        targets = (config.target, *config.further)
        names = config.names or ("refined",)
        if len(names) != len(targets):
            raise UsageError(
                f"there are {len(targets)} architectures and {len(names)} names", where="names", kind="bad_config"
            )
        self.contenders = [self._open(*pair) for pair in zip(targets, names, strict=True)]
        if config.init == "inherit" and len({contender.base_of for contender in self.contenders}) > 1:
            raise UsageError(
                "--init inherit starts from the weights of one base, and these architectures have several: compare "
                "those of one base, or use --init scratch",
                where="--init",
                kind="several_bases",
            )
        self.verified = None
        if config.verify is not None:
            grey = face_options(config.task_options).grey == "repeat"
            source = str(find(config.verify, start))
            listed = None if config.pairs is None else str(find(config.pairs, start))
            for channels in sorted({contender.traced.input[0] for contender in self.contenders}):
                self.verified = open_pairs(source, listed, config.folds, channels, grey)
        self.notes = self._notes()
        self.sizes = [self._check(contender) for contender in self.contenders]

    def _open(self, target: str, name: str) -> Contender:
        architecture, place = open_target(target, self.start)
        if architecture is None:
            raise UsageError(
                f"compare takes an arch.json, not {target!r}", where=target, kind="not_an_architecture"
            )  # fmt: skip
        config = self.config
        wanted = None if isinstance(config.outputs, str) else config.outputs
        if config.outputs == "auto":
            shape = config.input or architecture.input or default_input(architecture.model, relative_to=place)
            shape = shape or DEFAULT_INPUT
            wanted = len(self._task(shape).data.classes)
        contender = open_contender(
            architecture,
            name,
            randoms=config.randoms,
            seed=config.seed,
            place=place,
            weights=None if config.weights is None else str(find(config.weights, self.start)),
            outputs=wanted,
            input=config.input,
        )
        self._task(contender.traced.input)
        return contender

    def _task(self, shape: Shape) -> Task:
        """The data as a task for networks of this input; those of one input share it."""
        if shape not in self.tasks:
            self.tasks[shape] = open_task(
                self.config,
                shape,
                seed=self.config.seed,
                device=self.device,
                label_smoothing=self.config.label_smoothing,
                relative_to=self.start,
                precision=self.config.compute_precision(self.device),
            )
        return self.tasks[shape]

    def _notes(self) -> list[str]:
        notes = [note for contender in self.contenders for note in contender.traced.notes]
        for task in self.tasks.values():
            notes += task.data.notes
        if self.config.init == "inherit":
            notes.insert(0, f"weights: {self.contenders[0].weights}")
            if any(task.data.test is None and task.data.val_from_train for task in self.tasks.values()):
                notes.append(SEEN)
        return list(dict.fromkeys(notes))

    def _check(self, contender: Contender) -> int:
        """Try the base on its task; returns the number of its outputs."""
        shape = contender.traced.input
        network = Entrant("base", contender, contender.traced.space.base).network()
        check_values(network)
        network.to(self.device)
        task = self.tasks[shape]
        size = outputs(network, shape, self.device)
        try:
            task.check(size)
        except UsageError as error:
            if error.kind != "too_few_outputs":
                raise
            raise UsageError(f"{error}, or give --outputs auto", where=error.where, kind=error.kind) from error
        check_batches(network, shape, self.device, min(self.config.batch_size, len(task.data.train)))
        return size

    def run(self, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        """Train what is not trained yet, and write the table."""
        part = "test" if all(task.data.test is not None for task in self.tasks.values()) else "val"
        rows: dict[str, dict[str, Any]] = {}
        places: dict[tuple[Any, ...], str] = {}
        with folder, interruptible(folder, resumable=True):
            for note in self.notes:
                reporter.say(note)
            for entrant in self._entrants():
                place = places.setdefault(entrant.key, entrant.folder)
                rows[entrant.name] = self._row(entrant, place, part, folder, reporter)
            found = [self._beside(contender, rows, part) for contender in self.contenders]
            result = {
                "part": part,
                "metric": next(iter(self.tasks.values())).metric,
                "seeds": self.config.seeds,
                "rows": list(rows.values()),
                "architectures": found,
                "verdict": "\n".join(entry["verdict"] for entry in found),
            }
            write_json(folder.path / "comparison.json", result)
        return {**result, "files": {"comparison": str(folder.path / "comparison.json")}}

    def _entrants(self) -> list[Entrant]:
        """Bases, each once, then the architectures, then their random vectors, one architecture after another."""
        bases = {contender.base_of: contender for contender in reversed(self.contenders)}
        entrants = [
            Entrant(self._base(contender), contender, contender.traced.space.base)
            for contender in self.contenders
            if bases[contender.base_of] is contender
        ]
        entrants += [Entrant(contender.label, contender, contender.vector) for contender in self.contenders]
        return entrants + [
            Entrant(name, contender, vector)
            for contender in self.contenders
            for name, vector in zip(self._randoms(contender), contender.randoms, strict=True)
        ]

    def _base(self, contender: Contender) -> str:
        """The name of the base's row: where there are several, that of the first architecture of each stands in it."""
        bases = list(dict.fromkeys(other.base_of for other in self.contenders))
        first = next(other for other in self.contenders if other.base_of == contender.base_of)
        return "base" if len(bases) == 1 else f"base of {first.label}"

    def _randoms(self, contender: Contender) -> list[str]:
        head = f"{contender.label} " if self.config.names else ""
        return [f"{head}random {index + 1}" for index in range(len(contender.randoms))]

    def _beside(self, contender: Contender, rows: dict[str, dict[str, Any]], part: str) -> dict[str, Any]:
        own, base = rows[contender.label], rows[self._base(contender)]
        entry = {
            "name": contender.label,
            "kind": contender.kind,
            "model": contender.model,
            "input": list(contender.traced.input),
            **beside(own, base, [rows[name] for name in self._randoms(contender)]),
        }
        return {**entry, "verdict": verdict(contender.label, own["mean"], entry["random"], part)}

    def _row(self, entrant: Entrant, place: str, part: str, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        space, first = entrant.contender.traced.space, self.config.seed
        trained = [
            self._metrics(entrant, place, seed, folder, reporter) for seed in range(first, first + self.config.seeds)
        ]
        row = {
            "name": entrant.name,
            **space.describe(entrant.vector),
            **{metric: int(value) for metric, value in space.cost(entrant.vector).items()},
            **spread_of([metrics[part]["accuracy"] for metrics in trained]),
        }
        if self.verified is not None:
            row["verification"] = spread_of([metrics["verification"]["accuracy"] for metrics in trained])
        return row

    def _metrics(self, entrant: Entrant, name: str, seed: int, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        """Train one network with one seed, in a run directory of its own; a finished one is only read."""
        place = folder.path / "runs" / f"{name}-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        if (place / "metrics.json").is_file():
            found: dict[str, Any] = read_json(place / "metrics.json")
            return found
        contender = entrant.contender
        task = self.tasks[contender.traced.input]
        task.check(self.sizes[self.contenders.index(contender)])  # networks that share a task may differ in outputs
        network = entrant.network()
        if self.config.init == "scratch":
            reinitialise(network, seed)
        network.to(self.device)
        label = f"{entrant.name}, seed {seed}"
        metrics = fit(
            network,
            task,
            self.config,
            seed=seed,
            folder=RunFolder(place),
            reporter=reporter,
            label=label,
            trained=self.config.init == "inherit",
        )
        if self.verified is not None:
            verified = judge_pairs(
                partial(task.precision.apply, network),
                *self.verified,
                contender.traced.input,
                mean=task.data.mean,
                std=task.data.std,
                batch_size=self.config.batch_size,
                device=self.device,
                reporter=reporter,
            )
            metrics["verification"] = verified.to_json()
            reporter.say(f"{label}: verification {verified.accuracy:.4f} ± {verified.standard_error:.4f}")
        write_weights(network, place / "weights.safetensors")
        write_json(place / "metrics.json", metrics)
        (place / "checkpoint.pt").unlink(missing_ok=True)
        folder.event(
            "trained", name=entrant.name, seed=seed, **contender.traced.space.describe(entrant.vector), **metrics
        )
        return metrics
