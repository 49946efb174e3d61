"""Other budgets answered from the scores that a search saved, without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from narfx.compiler.outline import network_record
from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.inputs.paths import named_paths, relocated
from narfx.inputs.reference import ModelRef
from narfx.inputs.weights import write_weights
from narfx.runs.folder import RunFolder
from narfx.runs.origin import check_reads
from narfx.runs.progress import Reporter, Silent
from narfx.search.api import reads_of_search
from narfx.search.config import SearchConfig, config_of_run
from narfx.search.effort import Effort
from narfx.search.epochs import SCORES
from narfx.search.evaluations import Evaluator
from narfx.search.front import front_point
from narfx.search.prepared import Prepared
from narfx.search.prepared import prepare as prepare_search
from narfx.search.stages import stages_of
from narfx.search.supernet_file import SUPERNET, load_supernet
from narfx.space.architecture import Architecture, Preprocessing
from narfx.space.budget import Budget, budget_range, ranged_metric
from narfx.space.front import front
from narfx.space.front_file import FRONT, Front, PointWeights
from narfx.space.records import Vector
from narfx.space.scores import ScoreTable
from narfx.space.solver import best_vectors
from narfx.support.devices import pick_device
from narfx.support.files import write_bytes
from narfx.support.folders import check_output, check_replaceable, output_folder
from narfx.support.seals import file_digest, write_sealed
from narfx.support.text import count as counted
from narfx.training.about import ABOUT, about
from narfx.verbs.solve_plot import plot_points

__all__ = ["solve"]

_RESULT = "solve.json"


def solve(
    run: Path | str,
    out: Path | str,
    *,
    budget: str,
    count: int = 1,
    points: int = 7,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Choose the best vectors for another budget by the scores of a finished search, and write their architectures.

    An integer program finds the ``count`` vectors of least summed score (LANA, arXiv 2107.10624, section 3.2); each is
    evaluated on the validation part with recalibrated BatchNorm, and the most accurate is written: ``arch.json`` with
    its weights, and ``solve.json``, the result. A range of budgets gives a front: a folder for each of its points,
    ``front.json``, and a plot.

    Args:
        run: The run directory of ``narfx search --strategy solve``.
        out: The folder to write.
        budget: As for a search; or with one range, ``macs<=0.3x..0.9x``.
        count: How many vectors are evaluated for each budget.
        points: How many budgets a range has.
        device: ``auto``, ``cpu`` or ``cuda``.
        overwrite: Whether ``out`` may be replaced.
        reporter: Receives progress.

    Returns:
        ``{"run", "metric", "points": [{"budget", "vector", "accuracy", "predicted_accuracy", costs, "files", ...}],
        "prediction", "notes", "files"}``.

    Raises:
        UsageError: The folder has no such run, its scores are of another space, or an option is wrong.
        InfeasibleBudgetError: No vector meets the budget, or any budget of the range.
    """
    run, out, reporter = Path(run), Path(out), reporter or Silent()
    if count < 1:
        raise UsageError(f"--count is at least 1, not {count}", where="--count", kind="solve_count")
    budgets = budget_range(budget, points)
    check_output(out, overwrite=overwrite)
    folder = RunFolder.open(run)
    _check_finished(run)
    config = config_of_run(folder.path)
    check_replaceable(out, [run, *named_paths(config, run)])
    with folder.unused():
        solver = _Solver.open(folder, config, device, reporter)
        found = [
            point for text in budgets if (point := solver.point(text, count, single=len(budgets) == 1)) is not None
        ]
    if not found:
        raise InfeasibleBudgetError(f"no architecture meets any of {budget}; {solver.notes[-1]}", where="--budget")
    with output_folder(out, overwrite=overwrite) as work:
        names = [""] if len(budgets) == 1 else [f"point-{index}" for index in range(1, len(found) + 1)]
        records = [solver.write(point, work, out, name) for point, name in zip(found, names, strict=True)]
        result = {
            "run": str(run),
            "asked": {"budget": budget, "count": count, "points": points},
            "metric": solver.prepared.task.metric,
            "bounded": ranged_metric(budget),
            "base": solver.base,
            "points": records,
            "prediction": solver.prediction,
            "notes": solver.notes,
        }
        write_sealed(work / _RESULT, result)
        write_sealed(work / ABOUT, solver.about(pick_device(device)))
        files = {"result": str(out / _RESULT)}
        if len(budgets) > 1:
            solver.front(dict(zip(names, records, strict=True)), budget, work).save(work / FRONT)
            files["front"] = str(out / FRONT)
            for kind, content in plot_points(result).items():
                write_bytes(work / f"front.{kind}", content)
                files[kind] = str(out / f"front.{kind}")
    return {**result, "files": files}


@dataclass(frozen=True)
class _Point:
    """One budget: the vector that was chosen, its evaluation, and how many were evaluated."""

    budget: str
    vector: Vector
    record: Mapping[str, Any]
    tried: int


class _Solver:
    """A finished search, opened again: its space, its scores and its supernet."""

    def __init__(
        self, run: Path, config: SearchConfig, prepared: Prepared, table: ScoreTable, reporter: Reporter
    ) -> None:
        self.run, self.config, self.prepared, self.table, self.reporter = run, config, prepared, table, reporter
        self.space = table.offered(prepared.traced.space)
        self.notes: list[str] = []
        effort = Effort.of(config, prepared.task, prepared.traced.space)
        self.evaluator = Evaluator(prepared.net, prepared.task, effort, config.reuse_memory * 2**20)

    @property
    def base(self) -> dict[str, float]:
        """The costs of the base."""
        whole = self.prepared.traced.space
        return whole.cost(whole.base)

    @property
    def prediction(self) -> Any:
        """How well the scores predict, as the search found it."""
        return Architecture.load(self.run / "arch.json").metrics.get("prediction")

    @classmethod
    def open(cls, folder: RunFolder, config: SearchConfig, device: str, reporter: Reporter) -> _Solver:
        run = folder.path
        table = ScoreTable.load(run / SCORES)
        unbounded = config.model_copy(update={"budget": "none"})
        prepared = prepare_search(unbounded, stages_of(unbounded), device, run, resumed=True)
        check_reads(folder.path, reads_of_search(config, prepared, run))
        table.check_same(prepared.traced.space)
        load_supernet(prepared.net, prepared.task.head, run)
        return cls(run, config, prepared, table, reporter)

    def about(self, device: torch.device) -> dict[str, Any]:
        """What a report of the points shows of the network and the data."""
        record = network_record(self.prepared.traced, model=ModelRef.parse(self.config.model).plain)
        return about([record], self.prepared.task, device)

    def point(self, text: str, count: int, *, single: bool) -> _Point | None:
        """The best of ``count`` solutions for a budget; ``None``, and a note, where one of several is not possible."""
        try:
            space = self.space.within(Budget.parse(text, self.base))
        except InfeasibleBudgetError as error:
            if single:
                raise
            self.notes.append(f"{text}: {error}")
            return None
        vectors = best_vectors(space, self.table.scores, count)
        if len(vectors) < count:
            self.notes.append(f"{text}: only {counted(len(vectors), 'vector')} of {count} exist")
        tried = self.evaluator(vectors, ["val"], self.reporter, text)
        best = max(range(len(tried)), key=lambda index: (tried[index]["accuracy"], -index))
        self.reporter.say(f"{text}: accuracy {tried[best]['accuracy']:.4f}")
        return _Point(text, vectors[best], tried[best], len(tried))

    def _predicted_accuracy(self, vector: Vector) -> float | None:
        """The accuracy on the scoring images, less what each replacement costs of it; at least 0."""
        accuracy, lost = self.table.center.get("accuracy"), self.table.total("mistakes", vector)
        return None if accuracy is None or lost is None else max(accuracy - lost, 0.0)

    def write(self, point: _Point, work: Path, out: Path, name: str) -> dict[str, Any]:
        """Write one point into ``work``, which will stand at ``out``; returns its record."""
        place, final = work / name, out / name
        place.mkdir(exist_ok=True)
        task, traced = self.prepared.task, self.prepared.traced
        write_weights(self.evaluator.network(point.vector), place / "weights.safetensors")
        record = {
            "budget": point.budget,
            **point.record,
            "predicted_accuracy": self._predicted_accuracy(point.vector),
            "score": self.table.predict(point.vector),
            "evaluated": point.tried,
        }
        moved = relocated(self.config, final, start=self.run)
        traced.architecture(
            point.vector,
            weights="weights.safetensors",
            metrics={
                "data": task.data.short_name,
                "metric": task.metric,
                "accuracy": record["accuracy"],
                "budget": point.budget,
            },
            preprocessing=Preprocessing(mean=task.data.mean, std=task.data.std),
            seed=self.config.seed,
            init="base",
            base_weights=moved.weights,
        ).model_copy(update={"model": moved.model, "operator_files": moved.operator_files}).save(place / "arch.json")
        return {**record, "files": {"arch": str(final / "arch.json"), "weights": str(final / "weights.safetensors")}}

    def front(self, records: Mapping[str, Mapping[str, Any]], budget: str, work: Path) -> Front:
        """The front of what was written, each record by its folder in ``work``, over the metric that has a range."""
        task, costs, over = self.prepared.task, self.prepared.traced.space.metrics, ranged_metric(budget)
        images, tried = self.evaluator.effort.val, sum(record["evaluated"] for record in records.values())
        base = self.evaluator([self.prepared.traced.space.base], ["val"])[0]
        named = [{**record, "file": f"{name}/weights.safetensors"} for name, record in records.items()]
        return Front(
            metric=task.metric,
            costs=(over,),
            budget=budget,
            architecture=f"{next(iter(records))}/arch.json",
            images=images,
            archive=tried,
            evaluated=tried,
            base=front_point(base, costs, images),
            base_by="shared",
            points=tuple(
                front_point(
                    record, costs, images, PointWeights(file=record["file"], digest=file_digest(work / record["file"]))
                )
                for record in front(named, (over, "accuracy"))
            ),
        )


def _check_finished(run: Path) -> None:
    missing = next((name for name in ("result.json", SCORES, SUPERNET) if not (run / name).is_file()), None)
    if missing is not None:
        raise UsageError(
            f"{run} has no {missing}: only a finished search with --strategy solve can answer other budgets",
            where=str(run),
            kind="no_scores",
        )
