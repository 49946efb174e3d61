"""A whole search, from a configuration to a run directory with an architecture in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narfx.compiler.lowering import lower
from narfx.errors import UsageError
from narfx.graph.batchnorm import recalibrate
from narfx.inputs.paths import named_paths, relocated
from narfx.inputs.weights import write_weights
from narfx.latency.table import LatencyFile
from narfx.runs.events import Done, Subscriber
from narfx.runs.folder import RunFolder, interruptible
from narfx.runs.progress import Reporter, Silent
from narfx.search.config import SearchConfig
from narfx.search.epochs import SCORES
from narfx.search.estimate import plan
from narfx.search.loop import Search
from narfx.search.measuring import MeasuringStrategy
from narfx.search.outcome import Outcome, conclude, verdict
from narfx.search.prepared import Prepared, prepare
from narfx.search.progress import EpochLines
from narfx.search.stages import Stage, check_epochs, stages_of
from narfx.search.supernet_file import SUPERNET, save_supernet
from narfx.search.supernet_strategy import AnyStrategy
from narfx.space.architecture import Preprocessing
from narfx.space.front import front
from narfx.support.files import check_output, read_json, write_json
from narfx.support.schema import validated

__all__ = ["resume", "run"]


def run(
    config: SearchConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
    stages: Sequence[Stage] | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> dict[str, Any]:
    """Search, and write the run directory ``out``.

    Everything that can be known to be wrong is found before ``out`` is touched.

    Args:
        config: The search.
        out: The run directory.
        device: ``auto``, ``cpu`` or ``cuda``.
        overwrite: Whether a folder that is not empty may be replaced.
        reporter: Receives progress.
        relative_to: The folder that relative paths start at; the working folder without one.
        stages: Take the place of the configuration's strategy and epochs. They are code, which no file holds: give
            them to :func:`resume` as well.
        subscribers: Receive each event of the run as soon as it is written.

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
    config = config if stages is None else _totals(config, stages)
    prepared = prepare(config, stages or stages_of(config), device, relative_to)
    inputs = named_paths(config, relative_to)
    config = relocated(config, out, start=relative_to)
    files: dict[str, Any] = {} if stages is None else {_STAGES: [stage.describe() for stage in stages]}
    if prepared.latency is not None:
        # Kept in the run, and so measured once: a resumed search, or one with this config, reads it.
        files[_LATENCY] = LatencyFile(tables=(prepared.latency.table,)).model_dump(mode="json")
        config = config.model_copy(update={"latency_file": _LATENCY})
    folder = RunFolder.create(out, config.model_dump(mode="json"), overwrite=overwrite, inputs=inputs, files=files)
    return _go(prepared, config, folder, reporter, subscribers)


def resume(
    out: Path | str,
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
    stages: Sequence[Stage] | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> dict[str, Any]:
    """Go on with the run in ``out`` from its last checkpoint; the result is that of a run never stopped.

    A search with ``stages`` of its own takes the same ones again. ``subscribers`` receive the events from here on.
    """
    folder = RunFolder.open(Path(out))
    config = validated(SearchConfig, folder.config(), str(folder.path / "config.json"))
    _check_same(folder.path / _STAGES, stages)
    prepared = prepare(config, stages or stages_of(config), device, folder.path, resumed=True)
    return _go(prepared, config, folder, reporter or Silent(), subscribers)


def _totals(config: SearchConfig, stages: Sequence[Stage]) -> SearchConfig:
    """The configuration with the epochs of all stages, and the strategy that names the finalists."""
    check_epochs(stages)
    return config.model_copy(
        update={
            "epochs": sum(stage.length for stage in stages),
            "pretrain_epochs": sum(stage.preparation.epochs for stage in stages),
            "strategy": stages[-1].strategy,
            "strategy_options": dict(stages[-1].options),
        }
    )


def _check_same(path: Path, stages: Sequence[Stage] | None) -> None:
    """Refuse to resume a run with other stages than those it began with."""
    began = read_json(path) if path.exists() else None
    given = None if stages is None else [stage.describe() for stage in stages]
    if json.loads(json.dumps(given)) != began:
        raise UsageError(
            f"the search in {path.parent} began with other stages: give narfx.search.resume the stages that "
            "narfx.search.run was given",
            where="stages",
            kind="other_stages",
        )


def _go(
    prepared: Prepared,
    config: SearchConfig,
    folder: RunFolder,
    reporter: Reporter,
    subscribers: Sequence[Subscriber],
) -> dict[str, Any]:
    folder.subscribe(EpochLines(reporter, prepared.stages))
    for subscriber in subscribers:
        folder.subscribe(subscriber)
    with folder, interruptible(folder):
        for note in prepared.notes:
            reporter.say(note)
        reporter.say(plan(prepared, config))
        net, space, task = prepared.net, prepared.space, prepared.task
        search = Search(config, space, net, prepared.stages, task, folder, reporter)
        search.run()
        outcome = conclude(
            net,
            space,
            task,
            search.strategy.finalists(config.finalists),
            base=search.base,
            randoms=config.randoms,
            seed=config.seed,
            folder=folder,
            reporter=reporter,
        )
        result = _write(prepared, config, folder, outcome, search.strategy)
        reporter.say(result["verdict"])
        return result


def _write(
    prepared: Prepared, config: SearchConfig, folder: RunFolder, outcome: Outcome, strategy: AnyStrategy
) -> dict[str, Any]:
    """Write the chosen network, the front and, last, ``arch.json``: where it exists, the others are complete."""
    best, data = outcome.best, prepared.task.data
    vector = prepared.space.read(best)
    network = lower(prepared.net, vector)
    with prepared.task.precision.autocast():
        recalibrate(network, prepared.task.calibration_batches())
    write_weights(network, folder.path / "weights.safetensors")
    files = dict(_FILES)
    if isinstance(strategy, MeasuringStrategy):
        save_supernet(prepared.net, folder.path)
        files |= {"scores": SCORES, "supernet": SUPERNET}
    records = [outcome.base, *outcome.finalists, *outcome.randoms]
    write_json(folder.path / "front.json", {"metric": prepared.task.metric, "front": front(records)})
    costs = prepared.space.metrics
    metrics = {
        "data": data.short_name,
        "metric": prepared.task.metric,
        "strategy": ", ".join(stage.strategy for stage in prepared.stages),
        "accuracy": best["accuracy"],
        "accuracy_of": "shared weights, recalibrated BatchNorm, whole validation part",
        **{key: best[key] for key in costs},
        "base": {key: outcome.base[key] for key in ("accuracy", *costs)},
        "random": {
            "vectors": len(outcome.randoms),
            "mean_accuracy": outcome.random_mean,
            "best_accuracy": outcome.random_best,
        },
        **({"prediction": dict(strategy.prediction)} if isinstance(strategy, MeasuringStrategy) else {}),
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
    folder.write(Done(more=metrics))
    return {
        **prepared.space.describe(vector),
        **metrics,
        "finalists": outcome.finalists,
        "randoms": outcome.randoms,
        "out": str(folder.path),
        "files": {name: str(folder.path / file) for name, file in files.items()},
    }


_LATENCY, _STAGES = "latency.json", "stages.json"
_FILES = {
    "arch": "arch.json", "weights": "weights.safetensors", "front": "front.json", "events": "events.jsonl",
    "config": "config.json",
}  # fmt: skip
