"""Is the shared BatchNorm a fair judge? How a supernet ranks architectures, against training each of them alone.

A search relies on the rewards that sub-networks get with shared weights. This tool measures how reliable they are:
Kendall's tau between those rewards and the accuracy of the same architectures trained stand-alone from
scratch, once with one BatchNorm after each site (``shared``) and once with one for each operator (``separate``). The
vectors are drawn uniformly from the space, and the supernets are trained on uniform random vectors, so that no
strategy takes part. The output folder keeps everything that was trained, and a second call continues from there.

    python tools/fair_judge.py --data cifar10.npz --out runs/fair_judge

Three rewards are judged: the search's own quick reward (one validation minibatch with its batch statistics, the same
one for all vectors; tau is averaged over minibatches), its mean over all validation minibatches, and the evaluation
of finalists (BatchNorm recalibrated, the whole validation part).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fair_judge_tables import show
from pydantic import Field
from rank_agreement import NORMS, REWARDS, Norms, Rewards, compare_judges, spread, verdict

from narfx.compiler.front_end import Traced
from narfx.compiler.lowering import lower
from narfx.compiler.open import NetworkOptions, open_base
from narfx.compiler.supernet import Supernet
from narfx.errors import NarfxError, UsageError
from narfx.runs.folder import RunFolder
from narfx.runs.progress import ConsoleProgress, Reporter, Silent
from narfx.search.config import SearchConfig
from narfx.search.epochs import quick_reward
from narfx.search.loop import Search
from narfx.search.outcome import evaluate_vector
from narfx.search.stages import stages_of
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace
from narfx.support.devices import pick_device
from narfx.support.files import read_json, write_json
from narfx.support.schema import validated
from narfx.support.seeds import derive, numpy_generator
from narfx.tasks.options import DataOptions, open_images, open_task
from narfx.tasks.task import Task
from narfx.training.checks import outputs
from narfx.training.fit import fit
from narfx.training.initialise import reinitialise
from narfx.training.recipe import Recipe

MAY_CHANGE = ("vectors", "repeats", "supernets", "supernet_epochs")  # in a second call: what is kept still holds


class Config(Recipe, DataOptions):
    """The measurement, with the recipe of stand-alone training: by default one cosine from ``lr`` to ``lr_min``."""

    model: str = "narfx:resnet_cifar?depth=8"
    vectors: int = Field(default=30, ge=3)
    repeats: int = Field(default=10, ge=0)
    supernets: int = Field(default=3, ge=1)
    supernet_epochs: int = Field(default=40, ge=1)
    supernet_lr: float = Field(default=0.05, gt=0)
    reward_images: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0)


def draw(space: SearchSpace, n: int, seed: int) -> list[Vector]:
    """``n`` different vectors, uniform over the space; the first ones stay the same where ``n`` grows."""
    if n > space.size:
        raise UsageError(f"the space has {space.size} vectors, fewer than --vectors {n}", kind="too_many_vectors")
    sampler, rng, found = FeasibleSampler(space), numpy_generator(seed, "fair judge"), dict[Vector, None]()
    while len(found) < n:
        found[sampler.draw(rng)] = None
    return list(found)


class Measurement:
    """The space, the data and the folder in which trainings are kept."""

    def __init__(self, config: Config, out: Path, device: str, reporter: Reporter) -> None:
        self.config, self.out, self.device, self.reporter = config, out, pick_device(device), reporter
        opened = open_images(config, None)
        self.traced: Traced = open_base(NetworkOptions(model=config.model), seed=config.seed, images=opened.images)
        self.vectors = draw(self.traced.space, config.vectors, config.seed)
        self.task: Task = open_task(
            config,
            self.traced.input,
            opened=opened,
            seed=config.seed,
            device=self.device,
            label_smoothing=config.label_smoothing,
        )
        self.part = "val" if self.task.data.test is None else "test"
        base = lower(Supernet(self.traced), self.traced.space.base).to(self.device)
        self.task.check(outputs(base, self.traced.input, self.device))

    def run(self) -> dict[str, Any]:
        """Train what is not trained yet, judge, and compare the judges."""
        for note in self.task.data.notes:
            self.reporter.say(note)
        plan = [(vector, 0) for vector in self.vectors] + [(v, 1) for v in self.vectors[: self.config.repeats]]
        found: dict[Vector, list[float]] = {vector: [] for vector in self.vectors}
        for done, (vector, repeat) in enumerate(plan):
            found[vector].append(self._alone(vector, self.config.seed + repeat, f"{done + 1}/{len(plan)}"))
        judged = {
            norms: [self._judge(norms, self.config.seed + index) for index in range(self.config.supernets)]
            for norms in NORMS
        }
        return self._report([found[vector] for vector in self.vectors], judged)

    def _alone(self, vector: Vector, seed: int, count: str) -> float:
        """The stand-alone accuracy of one vector, trained from scratch, or read if it is known."""
        folder, name = RunFolder(self.out / "alone" / f"{_text(vector)}.{seed}"), f"stand-alone {count}: {vector}"
        kept = folder.path / "metrics.json"
        if not kept.is_file():
            folder.path.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            network = lower(Supernet(self.traced), vector)
            reinitialise(network, seed)
            network.to(self.device)
            with folder:
                metrics = fit(network, self.task, self.config, seed=seed, folder=folder)
            write_json(kept, metrics)
            (folder.path / "checkpoint.pt").unlink()
            self.reporter.say(
                f"{name}, seed {seed}: loss {metrics['loss']:.4f}, {self.part} accuracy "
                f"{metrics[self.part]['accuracy']:.4f} ({time.monotonic() - started:.0f} s)"
            )
        return float(read_json(kept)[self.part]["accuracy"])

    def _judge(self, norms: Norms, seed: int) -> Rewards:
        """The rewards of all vectors in one supernet, trained on uniform random vectors: minibatches by vectors."""
        folder = RunFolder(self.out / "supernets" / f"{norms}.{seed}.{self.config.supernet_epochs}")
        folder.path.mkdir(parents=True, exist_ok=True)
        kept, known = folder.path / "rewards.json", dict[str, Any]()
        if kept.is_file():
            known = read_json(kept)
        missing = [vector for vector in self.vectors if _text(vector) not in known]
        if missing:
            self.reporter.say(f"supernet with {norms} norms, seed {seed}")
            with folder:
                net = self._supernet(norms, seed, folder)
                known |= {_text(vector): self._rewards(net, vector) for vector in missing}
            write_json(kept, known)
        records = [known[_text(vector)] for vector in self.vectors]
        quick = np.array([record["quick"] for record in records]).T
        proper = [record["proper"] for record in records]
        return {"quick": quick.tolist(), "quick_all": [quick.mean(axis=0).round(12).tolist()], "proper": [proper]}

    def _supernet(self, norms: Norms, seed: int, folder: RunFolder) -> Supernet:
        """Train from scratch on uniform random vectors: only the search's warm-up (NAR-PreTrain)."""
        config = self.config
        net = Supernet(self.traced, separate_norms=norms == "separate")
        reinitialise(net, seed)
        net.to(self.device)
        search = SearchConfig(
            model=config.model,
            strategy="random",
            init="scratch",
            norms=norms,
            epochs=config.supernet_epochs,
            pretrain_epochs=config.supernet_epochs,
            t0=config.supernet_epochs,
            lr=config.supernet_lr,
            weight_decay=config.weight_decay,
            seed=seed,
        )
        Search(search, net.space, net, stages_of(search), self.task, folder, self.reporter).run()
        return net

    def _rewards(self, net: Supernet, vector: Vector) -> dict[str, Any]:
        size = min(self.config.reward_images, len(self.task.data.val))
        batches = self.task.reward_batches(derive(self.config.seed, "reward"), len(self.task.data.val) // size, size)
        quick = [quick_reward(net, vector, self.task, batch) for batch in batches]
        return {"quick": quick, "proper": evaluate_vector(net, vector, self.task)["accuracy"]}

    def _report(self, found: list[list[float]], judged: dict[Norms, list[Rewards]]) -> dict[str, Any]:
        alone = np.array([statistics.fmean(values) for values in found])
        costs = [self.traced.space.cost(vector) for vector in self.vectors]
        judges = {
            f"{norms} {reward}": np.array([supernet[reward] for supernet in judged[norms]])
            for reward in REWARDS
            for norms in NORMS
        }
        judges["macs"] = np.array([cost["macs"] for cost in costs]).reshape(1, 1, -1)
        compared = compare_judges(judges, alone, seed=self.config.seed)
        data = self.task.data
        return {
            "config": self.config.model_dump(mode="json"),
            "part": self.part,
            "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test) if data.test else None},
            "vectors": [
                {"vector": list(vector), "macs": cost["macs"], "params": cost["params"], "accuracies": values}
                for vector, cost, values in zip(self.vectors, costs, found, strict=True)
            ],
            "alone": spread(alone, found),
            **compared,
            "verdict": verdict(compared),
        }


def _text(vector: Vector) -> str:
    return "-".join(map(str, vector))


def open_folder(out: Path, config: Config) -> None:
    """Make the output folder, or check that the results in it are of the same configuration."""
    values, kept = config.model_dump(mode="json"), out / "config.json"
    if kept.is_file():
        old = validated(Config, read_json(kept), str(kept)).model_dump(mode="json")
        differs = [key for key in values if key not in MAY_CHANGE and old[key] != values[key]]
        if differs:
            shown = ", ".join(f"{key} was {old[key]!r} and is {values[key]!r}" for key in differs)
            raise UsageError(f"{out} has another measurement ({shown}): choose another --out", kind="other_config")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists but has no measurement: choose another --out", kind="output_exists")
    out.mkdir(parents=True, exist_ok=True)
    write_json(kept, values)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kendall's tau of supernet rewards with stand-alone accuracy.")
    fields = Config.model_fields
    for name, text in {
        "model": "model reference",
        "data": "data source, as for narfx search",
        "data_fraction": "share of the training part that is used",
        "val_fraction": "share of the training part that is held out for the rewards",
        "batch_size": "images in a training step",
        "vectors": "architectures, drawn uniformly",
        "repeats": "architectures that are trained with a second seed too, for the noise of stand-alone training",
        "epochs": "epochs of stand-alone training",
        "lr": "learning rate of stand-alone training",
        "supernets": "supernets of each kind, over as many seeds",
        "supernet_epochs": "epochs of shared weights on uniform random vectors",
        "supernet_lr": "learning rate of the shared weights",
        "reward_images": "images in a quick reward",
        "seed": "seed of all draws",
    }.items():
        default = fields[name].default
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{text} (%(default)s)"
        )
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps what was trained")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    values = {key: value for key, value in vars(options).items() if key in Config.model_fields}
    try:
        config = validated(Config, {"epochs": 20, "t0": options.epochs, **values}, "fair_judge")
        measurement = Measurement(config, options.out, options.device, Silent() if options.quiet else ConsoleProgress())
        open_folder(options.out, config)
        result = measurement.run()
        write_json(options.out / "result.json", result)
    except NarfxError as error:
        print(f"fair_judge: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
