"""A whole search, from a configuration to a run directory with an architecture in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from narfx.compiler.lowering import lower
from narfx.compiler.open import open_base
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.graph.batchnorm import recalibrate
from narfx.graph.checks import check_values
from narfx.graph.copying import copy_module
from narfx.graph.frozen import train_mode
from narfx.inputs.paths import find, move, move_model, move_operators, move_source
from narfx.inputs.weights import write_weights
from narfx.latency.metric import LatencyReport, open_latency
from narfx.latency.table import LatencyFile
from narfx.runs.folder import RunFolder, interruptible
from narfx.runs.progress import Reporter, Silent
from narfx.search.config import SearchConfig
from narfx.search.loop import Search, quick_reward
from narfx.search.outcome import Outcome, conclude, verdict
from narfx.search.strategy import make_strategy
from narfx.space.architecture import Preprocessing
from narfx.space.budget import Budget
from narfx.space.front import front
from narfx.space.space import SearchSpace
from narfx.support.devices import pick_device
from narfx.support.files import check_output, write_json
from narfx.support.schema import validated
from narfx.support.text import count
from narfx.tasks.options import open_task
from narfx.tasks.task import Task
from narfx.training.checks import check_batches, outputs
from narfx.training.fit import sgd, train_step
from narfx.training.initialise import reinitialise

__all__ = ["resume", "run"]


def run(
    config: SearchConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Search, and write the run directory ``out``.

    Everything that can be known to be wrong is found before ``out`` is touched.

    Returns:
        What ``narfx search --json`` prints: the vector, accuracy, costs, the random vectors, the verdict, the files.

    Raises:
        UsageError: The model, the data, the strategy, an option or the folder is wrong.
        NothingToRefineError: The model has no site with a choice.
        InfeasibleBudgetError: No vector meets the budget.
        RunError: The loss became NaN or the machine ran out of something; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    out, reporter = Path(out), reporter or Silent()
    check_output(out, overwrite=overwrite)
    prepared = _Prepared(config, device, relative_to)
    named = (config.model, config.weights, config.data, config.latency_file, *config.operator_files)
    inputs = [find(path, relative_to) for path in named if path is not None]
    config = _moved(config, out, relative_to)
    files = {}
    if prepared.latency is not None:
        # Kept in the run, and so measured once: a resumed search, or one with this config, reads it.
        files[_LATENCY] = LatencyFile(tables=(prepared.latency.table,)).model_dump(mode="json")
        config = config.model_copy(update={"latency_file": _LATENCY})
    folder = RunFolder.create(out, config.model_dump(mode="json"), overwrite=overwrite, inputs=inputs, files=files)
    return _go(prepared, config, folder, reporter)


def resume(out: Path | str, *, device: str = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Go on with the run in ``out`` from its last checkpoint; the result is that of a run never stopped."""
    folder = RunFolder.open(Path(out))
    config = validated(SearchConfig, folder.config(), str(folder.path / "config.json"))
    return _go(_Prepared(config, device, folder.path, resumed=True), config, folder, reporter or Silent())


def _moved(config: SearchConfig, folder: Path, start: Path | None) -> SearchConfig:
    """The configuration with its paths as seen from the run directory."""
    paths: dict[str, Any] = {
        "model": move_model(config.model, folder, start=start),
        "operator_files": move_operators(config.operator_files, folder, start=start),
        "data": move_source(config.data, folder, start=start),
    }
    if config.val_data is not None:
        paths["val_data"] = move_source(config.val_data, folder, start=start)
    if config.weights is not None:
        paths["weights"] = move(config.weights, folder, start=start)
    return config.model_copy(update=paths)


class _Prepared:
    """What a search needs before its first step, all of it checked."""

    def __init__(self, config: SearchConfig, device: str, relative_to: Path | None, *, resumed: bool = False) -> None:
        if config.pretrain_epochs >= config.epochs:
            raise UsageError(
                f"--pretrain-epochs {config.pretrain_epochs} of --epochs {config.epochs} leave the strategy none to "
                "learn in: give more epochs, or fewer of them to pretraining",
                where="--pretrain-epochs",
                kind="pretrain_epochs",
            )
        self.device = pick_device(device)
        self.traced: Traced = open_base(config, relative_to=relative_to, seed=config.seed)
        self.task: Task = open_task(
            config,
            self.traced.input,
            seed=config.seed,
            device=self.device,
            label_smoothing=config.label_smoothing,
            relative_to=relative_to,
            precision=config.compute_precision(self.device),
        )
        self.latency: LatencyReport | None = None
        if config.wanted(config.budget):
            Budget.parse(config.budget, {**self.traced.space.cost(self.traced.space.base), "latency": 0.0})
            self.traced, self.latency = open_latency(self.traced, config, relative_to=relative_to, measured=resumed)
        base = self.traced.space
        self.space: SearchSpace = base.within(Budget.parse(config.budget, base.cost(base.base)))
        self.strategy = make_strategy(config.strategy, self.space, seed=config.seed, **config.strategy_options)
        self.notes = [*self.traced.notes, *self.task.data.notes, *(self.latency.notes if self.latency else ())]
        if config.init == "scratch":
            left = reinitialise(self.traced.graph_module, config.seed)
            if left:
                self.notes.append(f"kept as the model made them, for want of a rule: {', '.join(left[:4])}")
        elif self.task.data.val_from_train and config.weights is not None:
            self.notes.append(
                "warning: validation images come out of the training part, and the weights given may have seen them; "
                "--val-data names others"
            )
        self.net = Supernet(self.traced, separate_norms=config.norms == "separate")
        if config.init == "scratch":
            reinitialise(self.net, config.seed)
        check_values(self.net.graph_module)
        self.net.to(self.device)
        self.task.check(outputs(self.net, self.traced.input, self.device))
        sizes = (min(config.batch_size, len(self.task.data.train)), min(config.reward_images, len(self.task.data.val)))
        check_batches(self.net, self.traced.input, self.device, *sizes)


def _go(prepared: _Prepared, config: SearchConfig, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
    with folder, interruptible(folder):
        for note in prepared.notes:
            reporter.say(note)
        reporter.say(_plan(prepared, config))
        net, space, task = prepared.net, prepared.space, prepared.task
        search = Search(config, space, net, prepared.strategy, task, folder, reporter)
        search.run()
        outcome = conclude(
            net,
            space,
            task,
            prepared.strategy.finalists(config.finalists),
            base=search.base,
            randoms=config.randoms,
            seed=config.seed,
            folder=folder,
            reporter=reporter,
        )
        result = _write(prepared, config, folder, outcome)
        reporter.say(result["verdict"])
        return result


def _plan(prepared: _Prepared, config: SearchConfig) -> str:
    """What the search will cost: images, evaluations, and a time measured on a copy of the supernet."""
    task, space = prepared.task, prepared.space
    train = config.epochs * task.steps_per_epoch
    rewards = (config.epochs - config.pretrain_epochs) * config.steps * config.lot
    evaluations = config.finalists + config.randoms + 1
    images = len(task.data.val) + task.calibration_images
    step, reward = _probe(prepared, config)
    skips = f" and {count(len(space.skip_slots), 'possible skip')}" if space.skip_slots else ""
    end = evaluations * images / min(config.reward_images, len(task.data.val)) * reward
    return (
        f"search: {count(len(space) - len(space.skip_slots), 'slot')}{skips}, {space.size:.3g} vectors, "
        f"budget {space.budget}; {config.epochs} epochs of "
        f"{task.steps_per_epoch} training steps ({config.pretrain_epochs} of them on uniform random vectors), "
        f"{rewards} rewards, about {evaluations} evaluations on {images} images at the end; "
        f"about {(train * step + rewards * reward + end) / 60:.1f} minutes at the speed just measured"
    )


def _probe(prepared: _Prepared, config: SearchConfig) -> tuple[float, float]:
    """Seconds of one training step and of one reward, data included, the second of two; nothing of the run changes."""
    net = copy_module(prepared.net)
    optimizer = sgd(net, config)
    seconds = (0.0, 0.0)
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            start = time.monotonic()
            train_mode(net)
            x, y = next(prepared.task.train_batches(0))
            train_step(net, optimizer, prepared.task, x, y, config.clip)
            middle = time.monotonic()
            batch = next(prepared.task.reward_batches(0, 1, config.reward_images))
            quick_reward(net, prepared.space.base, prepared.task, batch)
            seconds = (middle - start, time.monotonic() - middle)
    return seconds


def _write(prepared: _Prepared, config: SearchConfig, folder: RunFolder, outcome: Outcome) -> dict[str, Any]:
    """The chosen network, the front and ``arch.json``, which is written last and so vouches for the others."""
    best, data = outcome.best, prepared.task.data
    vector = prepared.space.read(best)
    network = lower(prepared.net, vector)
    with prepared.task.precision.autocast():
        recalibrate(network, prepared.task.calibration_batches())
    write_weights(network, folder.path / "weights.safetensors")
    records = [outcome.base, *outcome.finalists, *outcome.randoms]
    write_json(folder.path / "front.json", {"metric": prepared.task.metric, "front": front(records)})
    costs = prepared.space.metrics
    metrics = {
        "data": data.short_name,
        "metric": prepared.task.metric,
        "strategy": config.strategy,
        "accuracy": best["accuracy"],
        "accuracy_of": "shared weights, recalibrated BatchNorm, whole validation part",
        **{key: best[key] for key in costs},
        "base": {key: outcome.base[key] for key in ("accuracy", *costs)},
        "random": {
            "vectors": len(outcome.randoms),
            "mean_accuracy": outcome.random_mean,
            "best_accuracy": outcome.random_best,
        },
        "verdict": verdict(outcome),
    }
    architecture = prepared.traced.architecture(
        vector,
        weights="weights.safetensors",
        metrics=metrics,
        preprocessing=Preprocessing(mean=data.mean, std=data.std),
        seed=config.seed,
    ).model_copy(update={"model": config.model, "operator_files": config.operator_files})
    architecture.save(folder.path / "arch.json")
    folder.event("done", **metrics)
    return {
        **prepared.space.describe(vector),
        **metrics,
        "finalists": outcome.finalists,
        "randoms": outcome.randoms,
        "out": str(folder.path),
        "files": {name: str(folder.path / file) for name, file in _FILES.items()},
    }


_LATENCY = "latency.json"
_FILES = {
    "arch": "arch.json", "weights": "weights.safetensors", "front": "front.json", "events": "events.jsonl",
    "config": "config.json",
}  # fmt: skip
