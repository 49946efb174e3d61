"""A whole search, from a configuration to a run directory with an architecture in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from narfx.compiler.outline import network_record
from narfx.errors import UsageError
from narfx.graph.digest import network_digest
from narfx.inputs.paths import named_digests, named_paths, relocated
from narfx.inputs.reference import ModelRef
from narfx.inputs.weights import write_weights
from narfx.latency.table import LatencyFile, Setting
from narfx.latency.whole import WholeLatency, time_whole
from narfx.runs.events import Done, Subscriber
from narfx.runs.finished import extend, finished_result
from narfx.runs.folder import RunFolder
from narfx.runs.interruption import interruptible
from narfx.runs.origin import check_reads
from narfx.runs.progress import Reporter, Silent
from narfx.runs.tensorboard import check_tensorboard, follow, write_tensorboard
from narfx.search.config import QUICK_LOOK, SearchConfig, config_of_run
from narfx.search.effort import Effort
from narfx.search.epochs import SCORES
from narfx.search.estimate import plan
from narfx.search.evaluations import EVALUATIONS, Evaluations, Evaluator
from narfx.search.front import FRONT_WEIGHTS, WEIGHTS, make_front
from narfx.search.loop import Search
from narfx.search.measuring import MeasuringStrategy
from narfx.search.near_budget import below_budget, near_budget
from narfx.search.outcome import Outcome, conclude
from narfx.search.prepared import Prepared, prepare
from narfx.search.progress import EpochLines
from narfx.search.registry import needs_epochs
from narfx.search.stages import Stage, check_epochs, stages_of
from narfx.search.supernet_file import SUPERNET, save_supernet
from narfx.search.supernet_strategy import AnyStrategy
from narfx.space.architecture import Preprocessing
from narfx.space.front_file import FRONT, Front
from narfx.space.records import Vector
from narfx.support.devices import pick_device
from narfx.support.files import read_json
from narfx.support.folders import check_output, check_replaceable
from narfx.support.ranks import Ranks
from narfx.support.seals import sealed, write_sealed
from narfx.support.text import count
from narfx.training.about import ABOUT, about
from narfx.training.method import check_extension, method_facts
from narfx.training.same_inputs import check_same_inputs

__all__ = ["estimate_search", "reads_of_search", "resume", "run"]


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
    tensorboard: bool = False,
    ranks: Ranks | None = None,
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
        tensorboard: Whether the run's folder gets scalars for TensorBoard (:mod:`narfx.runs.tensorboard`).
        ranks: This process among those that search together (:func:`narfx.support.joining.joined`).

    Returns:
        What ``narfx search --json`` prints: the vector, accuracy, costs, the random vectors, the verdict, the files.
        Nothing on ranks above 0.

    Raises:
        UsageError: The model, the data, the strategy, an option or the folder is wrong.
        NothingToRefineError: The model has no site with a choice.
        InfeasibleBudgetError: No vector meets the budget.
        RunError: The loss became NaN or the machine ran out of something; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    out, ranks = Path(out), ranks or Ranks()
    reporter = reporter if reporter is not None and ranks.first else Silent()
    check_tensorboard(tensorboard)
    check_output(out, overwrite=overwrite)
    inputs = named_paths(config, relative_to)
    check_replaceable(out, inputs)
    config = config if stages is None else _totals(config, stages)
    prepared = prepare(config, stages or stages_of(config), device, relative_to, ranks=ranks)
    reads = reads_of_search(config, prepared, relative_to)
    check_same_inputs(ranks, config, reads)
    config = relocated(config, out, start=relative_to)
    record = network_record(prepared.traced, model=ModelRef.parse(config.model).plain)
    files: dict[str, Any] = {ABOUT: about([record], prepared.task, pick_device(device))}
    if stages is not None:
        files[_STAGES] = [stage.describe() for stage in stages]
    if prepared.latency is not None:
        # Kept in the run, and so measured once: a resumed search, or one with this config, reads it.
        files[_LATENCY] = sealed(LatencyFile(tables=(prepared.latency.table,)).model_dump(mode="json"))
        config = config.model_copy(update={"latency_file": _LATENCY})
    values = config.model_dump(mode="json")
    folder = RunFolder.create(
        out, values, overwrite=overwrite, inputs=inputs, files=files, reads=reads, ranks=ranks, staged=True
    )  # fmt: skip
    if tensorboard and ranks.first:
        follow(folder)
    return _go(prepared, config, folder, reporter, subscribers)


def estimate_search(
    config: SearchConfig, *, device: str = "auto", relative_to: Path | None = None, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Check a search and measure on one process how long it will take by these ``ranks``; nothing is written.

    Returns:
        ``{"dry_run": True, "estimate": {"seconds", "epochs", "training_steps", "rewards", "evaluations",
        "evaluation_images"}, "message", "notes"}``; of a strategy with a mixture the estimate also has
        ``choices_at_once``, ``activation_mb`` and ``weight_mb``.

    Raises:
        UsageError: As for :func:`run`, as are the other errors.
    """
    prepared = prepare(config, stages_of(config), device, relative_to, keep_latency=False)
    prepared.task.check_ranks(ranks or Ranks())
    return plan(prepared, config, ranks).to_json()


def resume(
    out: Path | str,
    *,
    epochs: int | None = None,
    device: str = "auto",
    previous: bool = False,
    reporter: Reporter | None = None,
    stages: Sequence[Stage] | None = None,
    subscribers: Sequence[Subscriber] = (),
    tensorboard: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Go on with the run in ``out`` from its last checkpoint; the result is that of a run never stopped.

    With ``previous`` it goes on from the checkpoint before. The result of a finished run is read from its files. With
    ``epochs`` a run, finished or not, gets so many epochs in all: it ends as a run that was started with them, and with
    the warm-up epochs of this one, because neither SGDR nor a strategy knows how many epochs will follow. A search with
    ``stages`` of its own takes the same ones again. ``subscribers`` receive the events from here on; with
    ``tensorboard`` the scalars of the whole run are written. The result is that of a run never stopped where the number
    of ``ranks`` is the same; with another number the search goes on soundly, and says so.

    Raises:
        UsageError: A file of the run is damaged; or its configuration, the model, a file that it names or the data are
            not those that it began with; or it cannot get these ``epochs``.
    """
    check_tensorboard(tensorboard)
    ranks = ranks or Ranks()
    reporter = reporter if reporter is not None and ranks.first else Silent()
    folder = RunFolder.open(Path(out), previous=previous, ranks=ranks)
    folder.check_seen()
    config = config_of_run(folder.path)
    _check_same(folder.path / _STAGES, stages)
    if epochs is not None:
        if stages is not None:
            raise UsageError(
                "a search with stages cannot be extended, because each stage has its own number of epochs: leave out "
                "epochs",
                where="--epochs",
                kind="stage_epochs",
            )
        check_extension(config, relative_to=folder.path)
        if needs_epochs(config.strategy):
            raise UsageError(
                f"strategy {config.strategy!r} depends on the number of epochs, so this run cannot be extended: start "
                "a new one with more --epochs",
                where="--epochs",
                kind="strategy_needs_epochs",
            )
        extend(folder, epochs, (_FILES["result"], _FILES["arch"], EVALUATIONS))
        config = config.model_copy(update={"epochs": epochs})
    elif (
        found := finished_result(
            folder, _FILES["result"], reporter, extends=stages is None and not needs_epochs(config.strategy)
        )
    ) is not None:
        if tensorboard and ranks.first:
            write_tensorboard(folder.path)
        return {**found, **_places(folder)}
    prepared = prepare(config, stages or stages_of(config), device, folder.path, resumed=True, ranks=ranks)
    reads = reads_of_search(config, prepared, folder.path)
    check_reads(folder.path, reads)
    check_same_inputs(ranks, config, reads)
    if tensorboard and ranks.first:
        follow(folder)
    return _go(prepared, config, folder, reporter, subscribers)


def reads_of_search(config: SearchConfig, prepared: Prepared, start: Path | None) -> dict[str, str]:
    """Digests of all that a search reads from elsewhere."""
    return named_digests(config, start) | {
        "the images or labels": prepared.task.data.digest,
        "the traced network": network_digest(prepared.traced.graph_module),
    }


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
        folder.check_seen()
        ranks = folder.ranks
        planned = plan(prepared, config, ranks) if ranks.first else None
        for note in prepared.notes if planned is None else planned.notes:
            reporter.say(note)
        if planned is not None:
            reporter.say(f"{QUICK_LOOK if config.quick else ''}{planned.text}")
        net, space, task = prepared.net, prepared.space, prepared.task
        effort = Effort.of(config, task, prepared.traced.space)
        search = Search(config, space, net, prepared.stages, task, folder, reporter, ranks, prepared.method)
        search.run()
        evaluator = Evaluator(net, task, effort, config.reuse_memory * 2**20)
        evaluate = Evaluations(evaluator, folder, reporter)
        if not ranks.first:
            evaluate.crew.follow()
            return {}
        table = search.strategy.scores() if isinstance(search.strategy, MeasuringStrategy) else None
        offered = search.trained if table is None else table.offered(space)
        outcome = conclude(
            evaluate,
            offered,
            search.strategy.finalists(config.finalists),
            base=search.base,
            randoms=config.randoms,
            seed=config.seed,
            time=_timing(prepared),
        )
        near = near_budget(search.archives[-1], space.budget)
        below = below_budget(
            outcome.best,
            outcome.finalists,
            outcome.dearest,
            space.budget,
            task.metric,
            lambda: None if near is None else evaluator([near], ["val"])[0],
        )
        write_weights(evaluator.network(space.read(outcome.best)), folder.path / WEIGHTS)
        made = make_front(
            evaluate, offered, search.strategy, search.archives, outcome, config.front, config.front_points, folder.path
        )
        evaluate.crew.dismiss()
        result = _write(prepared, config, folder, outcome, below, search.strategy, made)
        reporter.say(result["verdict"])
        if result["below_budget"] is not None:
            reporter.say(result["below_budget"]["message"])
        if outcome.in_time is not None:
            reporter.say(outcome.in_time.message)
        return result


def _timing(prepared: Prepared) -> Callable[[Vector], WholeLatency] | None:
    """How a vector is timed whole, where the budget bounds latency and the table was made on this machine."""
    if prepared.latency is None or "latency" not in prepared.space.budget.bounds:
        return None
    setting = prepared.latency.table.setting
    if Setting.here(setting.threads, setting.batch, setting.provider) != setting:
        return None
    return lambda vector: time_whole(prepared.net, prepared.traced, vector, setting)


def _write(
    prepared: Prepared,
    config: SearchConfig,
    folder: RunFolder,
    outcome: Outcome,
    below: dict[str, Any] | None,
    strategy: AnyStrategy,
    made: Front,
) -> dict[str, Any]:
    """Write the supernet, ``arch.json`` and, last, the result: where it exists, all is complete."""
    best, data = outcome.best, prepared.task.data
    vector = prepared.space.read(best)
    if isinstance(strategy, MeasuringStrategy):
        save_supernet(prepared.net, prepared.task.head, folder.path)
    costs = prepared.space.metrics
    metrics = {
        "data": data.short_name,
        "metric": prepared.task.metric,
        "strategy": ", ".join(dict.fromkeys(stage.strategy for stage in prepared.stages)),
        "budget": str(prepared.space.budget),
        "starting_weights": config.starting_weights,
        "accuracy": best["accuracy"],
        "accuracy_of": f"shared weights, recalibrated BatchNorm, {count(made.images, 'validation image')}",
        **{key: best[key] for key in costs},
        "base": {key: outcome.base[key] for key in ("accuracy", *costs)},
        "random": {
            "vectors": len(outcome.randoms),
            "mean_accuracy": outcome.random_mean,
            "best_accuracy": outcome.random_best,
        },
        **({"prediction": dict(strategy.prediction)} if isinstance(strategy, MeasuringStrategy) else {}),
        "judgement": outcome.judgement.to_json(),
        "verdict": f"{QUICK_LOOK if config.quick else ''}{outcome.judgement}",
        **({"quick": True} if config.quick else {}),
        **method_facts(config),
    }
    architecture = prepared.traced.architecture(
        vector,
        weights=WEIGHTS,
        metrics=metrics,
        preprocessing=Preprocessing(mean=data.mean, std=data.std),
        seed=config.seed,
        init=config.init,
        base_weights=config.weights if config.init == "base" else None,
    ).model_copy(update={"model": config.model, "operator_files": config.operator_files})
    architecture.save(folder.path / "arch.json")
    folder.write(Done(more=metrics))
    result = {
        **prepared.space.describe(vector),
        **metrics,
        "below_budget": below,
        "timed_whole": None if outcome.in_time is None else outcome.in_time.to_json(),
        "finalists": outcome.finalists,
        "randoms": outcome.randoms,
        "front": made.summary(),
    }
    write_sealed(folder.path / _FILES["result"], result)
    return {**result, **_places(folder)}


def _places(folder: RunFolder) -> dict[str, Any]:
    """Where the run and its files are."""
    files = _FILES | {name: file for name, file in _SOME.items() if (folder.path / file).is_file()}
    return {"out": str(folder.out), "files": {name: str(folder.out / file) for name, file in files.items()}}


_LATENCY, _STAGES = "latency.json", "stages.json"
_SOME = {"scores": SCORES, "supernet": SUPERNET, "front_weights": FRONT_WEIGHTS}
_FILES = {
    "arch": "arch.json", "weights": WEIGHTS, "front": FRONT, "events": "events.jsonl",
    "config": "config.json", "result": "result.json",
}  # fmt: skip
