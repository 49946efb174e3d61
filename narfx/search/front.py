"""The front of a search: which vectors are evaluated for it, and the file that holds its points and their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from narfx.errors import InfeasibleBudgetError
from narfx.inputs.weight_sets import WeightSet
from narfx.search.effort import SOLVED_BUDGETS
from narfx.search.evaluations import Evaluations
from narfx.search.measuring import MeasuringStrategy
from narfx.search.outcome import Outcome
from narfx.search.strategy import Evaluated
from narfx.search.supernet_strategy import AnyStrategy
from narfx.space.budget import Budget
from narfx.space.front import front, front_candidates
from narfx.space.front_file import FRONT, Front, FrontPoint, PointWeights, standard_error
from narfx.space.records import Vector
from narfx.space.scores import ScoreTable
from narfx.space.solver import best_vectors
from narfx.space.space import SearchSpace
from narfx.support.seals import file_digest

__all__ = ["FRONT_WEIGHTS", "SOLVED_BUDGETS", "WEIGHTS", "front_point", "front_vectors", "make_front"]

Record = dict[str, Any]

WEIGHTS, FRONT_WEIGHTS = "weights.safetensors", "front.safetensors"


def front_vectors(
    strategy: AnyStrategy, archives: Sequence[Sequence[Evaluated]], space: SearchSpace, costs: Sequence[str], n: int
) -> list[Vector]:
    """The vectors that deserve a proper evaluation for a front over ``costs``.

    At most ``n`` of those that the stages tried and that meet the budget
    (:func:`~narfx.space.front.front_candidates`), and for a strategy with scores the best vectors for
    :data:`SOLVED_BUDGETS` budgets over the range of each cost. Rewards of two stages do not compare, because the
    shared weights moved on between them or one of them measured a loss. So each stage proposes equally many, the last
    one first.
    """
    chosen: list[Vector] = []
    tried = [archive for archive in archives if archive]
    for left, archive in zip(range(len(tried), 0, -1), reversed(tried), strict=True):
        records = [
            {"vector": entry.vector, "accuracy": entry.result.reward, **space.cost(entry.vector)}
            for entry in archive
            if space.feasible(entry.vector) and entry.vector not in chosen
        ]
        share = -(-(n - len(chosen)) // left)
        chosen += [tuple(record["vector"]) for record in front_candidates(records, costs, share)]
    table = strategy.scores() if isinstance(strategy, MeasuringStrategy) else None
    return list(dict.fromkeys([*chosen, *(() if table is None else _solved(table, space, costs))]))


def _solved(table: ScoreTable, space: SearchSpace, costs: Sequence[str]) -> list[Vector]:
    found: list[Vector] = []
    for cost in costs:
        low, high = space.least(cost), min(space.most(cost), space.budget.bounds.get(cost, float("inf")))
        for step in range(SOLVED_BUDGETS):
            bound = low + (high - low) * step / (SOLVED_BUDGETS - 1)
            try:
                here = space.within(Budget({**space.budget.bounds, cost: bound}))
            except InfeasibleBudgetError:  # with the other bounds there is nothing so cheap
                continue
            found += best_vectors(here, table.scores)
    return found


def make_front(
    evaluate: Evaluations,
    space: SearchSpace,
    strategy: AnyStrategy,
    archives: Sequence[Sequence[Evaluated]],
    outcome: Outcome,
    costs: Sequence[str],
    n: int,
    run: Path,
) -> Front:
    """Write the front of a search over ``costs`` into its run, with the weights of its points.

    The vectors of :func:`front_vectors` are evaluated like finalists, and the front is that of all that was evaluated
    with the shared weights; of several with equal accuracy and costs one is a point. These evaluate the base too: it is
    what the points are compared with, where it never had weights of its own, and it is a point where it meets the
    budget and nothing beats it.

    Without ``costs`` the front is one over all costs, of what is evaluated anyway: the base with its own weights, the
    finalists and the random vectors. Of its points only the kept vector has weights.
    """
    records = [outcome.base, *outcome.finalists, *outcome.randoms]
    base, own = outcome.base, outcome.base["accuracy"] is not None
    if costs:
        chosen = front_vectors(strategy, archives, space, costs, n)
        found = evaluate(dict.fromkeys([*chosen, space.base]), "front")
        shared = found[[space.read(record) for record in found].index(space.base)]
        records = [record for record in found if record is not shared or _legal(space)] + records[1:]
        base = base if own else shared
    over = tuple(costs or sorted(space.metrics, key=lambda name: name != "macs"))
    records = [record for record in records if record["loss"] is not None]
    kept = space.read(outcome.best)
    points = _one_of_equals(front(records, (*over, "accuracy")), over, lambda p: space.read(p) == kept)
    vectors = [space.read(point) for point in points]
    weights = _all_weights(evaluate, vectors, run) if costs else _kept_weights(vectors, kept, run)
    task, images = evaluate.evaluator.task, evaluate.evaluator.effort.val
    made = Front(
        metric=task.metric,
        costs=over,
        budget=str(space.budget),
        images=images,
        archive=len({entry.vector for archive in archives for entry in archive}),
        evaluated=len({space.read(record) for record in records}),
        base=front_point(base, space.metrics, len(task.data.val) if own else images),
        base_by="own" if own else "shared" if costs else None,
        points=tuple(
            front_point(point, space.metrics, images, each) for point, each in zip(points, weights, strict=True)
        ),
    )
    made.save(run / FRONT)
    return made


def _one_of_equals(points: Sequence[Record], costs: Sequence[str], is_kept: Callable[[Record], bool]) -> list[Record]:
    """Of points with the same accuracy and costs the kept vector, or else that of least loss.

    Often they are one network: in a cell, what no output depends on may be chosen in many ways.
    """
    ordered = sorted(points, key=lambda point: (not is_kept(point), point["loss"]))
    first: dict[tuple[float, ...], Record] = {}
    for point in ordered:
        first.setdefault((point["accuracy"], *(point[cost] for cost in costs)), point)
    chosen = {id(point) for point in first.values()}
    return [point for point in points if id(point) in chosen]


def _legal(space: SearchSpace) -> bool:
    return space.feasible(space.base) and all(0 in slot.legal for slot in space.slots)


def _all_weights(evaluate: Evaluations, vectors: Sequence[Vector], run: Path) -> list[PointWeights | None]:
    """Write the weights of all points into one file."""
    kept = WeightSet()
    for number, vector in enumerate(vectors, 1):
        kept.add(str(number), evaluate.evaluator.network(vector))
    kept.write(run / FRONT_WEIGHTS)
    digest = file_digest(run / FRONT_WEIGHTS)
    return [PointWeights(file=FRONT_WEIGHTS, digest=digest, entry=str(n)) for n in range(1, len(vectors) + 1)]


def _kept_weights(vectors: Sequence[Vector], best: Vector, run: Path) -> list[PointWeights | None]:
    """The weights of the kept vector, which the run has anyway, where it is a point."""
    kept = PointWeights(file=WEIGHTS, digest=file_digest(run / WEIGHTS))
    return [kept if vector == best else None for vector in vectors]


def front_point(
    record: Mapping[str, Any], costs: Iterable[str], images: int, weights: PointWeights | None = None
) -> FrontPoint:
    """The point of a record of an evaluated vector."""
    accuracy = record["accuracy"]
    return FrontPoint(
        vector=record["vector"],
        skips=record.get("skips"),
        accuracy=accuracy,
        standard_error=None if accuracy is None else standard_error(accuracy, images),
        loss=record["loss"],
        costs={name: record[name] for name in costs},
        weights=weights,
    )
