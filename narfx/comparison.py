"""Base, refined and random vectors of equal cost, trained alike over several seeds and put side by side."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import fx

from narfx.compiler import lower
from narfx.config import validated
from narfx.errors import UsageError
from narfx.experiments import SEEN, create_run, open_target
from narfx.files import read_json, write_json
from narfx.networks import open_architecture
from narfx.paths import find
from narfx.progress import Reporter, Silent
from narfx.run import RunFolder, interruptible
from narfx.sampling import sample_window
from narfx.seeds import numpy_generator
from narfx.space import Vector
from narfx.supernet import Supernet
from narfx.tasks.options import DataOptions, open_task
from narfx.training import Recipe, check_batches, fit, outputs, pick_device, reinitialise
from narfx.weights import write_weights

__all__ = ["CompareConfig", "compare", "resume_compare"]

WINDOW = 0.02


class CompareConfig(Recipe, DataOptions):
    """A comparison by one recipe.

    ``init`` is ``scratch``, or ``inherit``: from the base's ``weights``, which every operator is then started from.
    """

    target: str
    weights: str | None = None
    init: Literal["inherit", "scratch"] = "scratch"
    seeds: int = Field(default=3, ge=1)
    randoms: int = Field(default=8, ge=0)
    seed: int = Field(default=0, ge=0)


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
        ``{"rows": [{"name", "vector", "params", "macs", "accuracies", "mean", "standard_error"}], "part", "metric",
        "verdict"}``; the accuracy is on the test part where the data have one, else on the validation part.

    Raises:
        UsageError: The target, the data or an option is wrong; ``out`` is untouched then.
        RunError: The loss became NaN or the machine ran out of something; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    out = Path(out)
    prepared = _Comparison(config, device, relative_to)
    folder = create_run(config, out, prepared.architecture, relative_to, overwrite=overwrite)
    return prepared.run(folder, reporter or Silent())


def resume_compare(out: Path | str, *, device: str = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Go on with the comparison in ``out``; arguments and errors as for ``compare``."""
    folder = RunFolder.open(Path(out))
    config = validated(CompareConfig, folder.config(), str(folder.path / "config.json"))
    return _Comparison(config, device, folder.path).run(folder, reporter or Silent())


class _Comparison:
    """The vectors to compare and what trains them."""

    def __init__(self, config: CompareConfig, device: str, start: Path | None) -> None:
        self.config, self.device = config, pick_device(device)
        architecture, place = open_target(config.target, start)
        if architecture is None:
            raise UsageError(
                f"compare takes an arch.json, not {config.target!r}", where=config.target, kind="not_an_architecture"
            )
        if config.init == "inherit" and config.weights is None:
            raise UsageError(
                "--init inherit starts every network from the base's weights: name them with --weights",
                where="--weights",
                kind="missing_option",
            )
        self.architecture = architecture
        weights = None if config.weights is None else str(find(config.weights, start))
        opened = open_architecture(architecture.as_base(), relative_to=place, weights=weights, seed=config.seed)
        self.traced = opened.traced
        vector = architecture.check(self.traced.space)
        self.vectors = {"base": self.traced.space.base, "refined": vector, **self._randoms(vector)}
        self.task = open_task(
            config,
            self.traced.input,
            seed=config.seed,
            device=self.device,
            label_smoothing=config.label_smoothing,
            relative_to=start,
        )
        self.notes = [*self.traced.notes, *self.task.data.notes]
        if config.init == "inherit":
            self.notes.insert(0, f"weights: {opened.weights}")
            if self.task.data.test is None and self.task.data.val_from_train:
                self.notes.append(SEEN)
        network = opened.network.to(self.device)
        self.task.check(outputs(network, self.traced.input, self.device))
        check_batches(network, self.traced.input, self.device, min(config.batch_size, len(self.task.data.train)))

    def _randoms(self, vector: Vector) -> dict[str, Vector]:
        space, macs = self.traced.space, self.traced.space.cost(vector)["macs"]
        drawn = sample_window(
            space,
            self.config.randoms,
            (1 - WINDOW) * macs,
            macs,
            numpy_generator(self.config.seed, "compare"),
            exclude=frozenset({vector}),
        )
        return {f"random {index + 1}": found for index, found in enumerate(drawn)}

    def run(self, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        """Train what is not trained yet, and write the table."""
        part = "test" if self.task.data.test is not None else "val"
        with folder, interruptible(folder, resumable=True):
            for note in self.notes:
                reporter.say(note)
            rows = [self._row(name, vector, part, folder, reporter) for name, vector in self.vectors.items()]
            verdict = _verdict(rows, part)
            result = {
                "part": part,
                "metric": self.task.metric,
                "seeds": self.config.seeds,
                "rows": rows,
                "verdict": verdict,
            }
            write_json(folder.path / "comparison.json", result)
        return {**result, "files": {"comparison": str(folder.path / "comparison.json")}}

    def _row(self, name: str, vector: Vector, part: str, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        first = self.config.seed
        accuracies = [
            self._accuracy(name, vector, seed, part, folder, reporter)
            for seed in range(first, first + self.config.seeds)
        ]
        error = statistics.stdev(accuracies) / math.sqrt(len(accuracies)) if len(accuracies) > 1 else None
        return {
            "name": name,
            **self.traced.space.describe(vector),
            **{metric: int(value) for metric, value in self.traced.space.cost(vector).items()},
            "accuracies": accuracies,
            "mean": statistics.fmean(accuracies),
            "standard_error": error,
        }

    def _accuracy(
        self, name: str, vector: Vector, seed: int, part: str, folder: RunFolder, reporter: Reporter
    ) -> float:
        """Train one vector with one seed, in a run directory of its own; a finished one is only read."""
        place = folder.path / "runs" / f"{name.replace(' ', '-')}-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        own = RunFolder(place)
        if (place / "metrics.json").is_file():
            return float(read_json(place / "metrics.json")[part]["accuracy"])
        network: fx.GraphModule = lower(Supernet(self.traced), vector)
        if self.config.init == "scratch":
            reinitialise(network, seed)
        network.to(self.device)
        label = f"{name}, seed {seed}"
        metrics = fit(
            network,
            self.task,
            self.config,
            seed=seed,
            folder=own,
            reporter=reporter,
            label=label,
            trained=self.config.init == "inherit",
        )
        write_weights(network, place / "weights.safetensors")
        write_json(place / "metrics.json", metrics)
        (place / "checkpoint.pt").unlink(missing_ok=True)
        folder.event("trained", name=name, seed=seed, **self.traced.space.describe(vector), **metrics)
        return float(metrics[part]["accuracy"])


def _verdict(rows: list[dict[str, Any]], part: str) -> str:
    """Refined against random, in one sentence."""
    refined = next(row for row in rows if row["name"] == "refined")
    means = [row["mean"] for row in rows if row["name"].startswith("random")]
    if not means:
        return "no random vector was trained: none was asked for, or no other one has MACs within 2 % below"
    better = sum(refined["mean"] > mean for mean in means)
    said = "beat" if better == len(means) else "did NOT beat all of"
    chosen = "" if part == "test" else "; the validation images may have chosen the refined one, which favours it"
    return (
        f"the refined network ({refined['mean']:.4f}) {said} the {len(means)} random vectors of equal MACs "
        f"(mean {statistics.fmean(means):.4f}, best {max(means):.4f}; better than {better}){chosen}"
    )
