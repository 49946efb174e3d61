"""What a search by scores costs: seconds of the solver, and a distillation step over a training step of the base.

    OMP_NUM_THREADS=1 python tools/solve_bench.py

The solver gets random spaces with three budgets at once (MACs, latency, parameters) and finds ten solutions that differ
in a fifth of their slots. The steps take turns in one process: `base` is a step of the pass that gives operators the
base's inputs, `mixed` one of the pass that gives them those of a random architecture.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import torch

from narfx.runs.progress import Silent
from narfx.search import SearchConfig
from narfx.search.preparation.distil import Distil
from narfx.search.prepared import Prepared, prepare
from narfx.search.shared_weights import SharedWeights
from narfx.search.stages import stages_of
from narfx.space import SearchSpace, best_vectors
from narfx.space.budget import Budget
from narfx.space.records import Slot
from narfx.support.ranks import Ranks
from narfx.training.fit import train_step
from narfx.training.method import sgd

METRICS = ("macs", "latency", "params")
SIZES = ((16, 4), (100, 6))
SOLUTIONS = 10


def random_space(slots: int, operators: int) -> tuple[SearchSpace, dict[tuple[int, int], float]]:
    """A space under three bounds, and scores of its choices."""
    rng = np.random.default_rng(0)
    names = ("base", *(f"op{k}" for k in range(1, operators)))
    made = []
    for index in range(slots):
        base = 1000 * rng.lognormal(0, 1, len(METRICS))
        rows = {
            m: (float(b), *(float(b * rng.uniform(0.05, 0.8)) for _ in names[1:]))
            for m, b in zip(METRICS, base, strict=True)
        }
        made.append(Slot(f"slot{index}", (), tuple(range(operators)), {}, rows, choices=names))
    space = SearchSpace(names, tuple(made), dict.fromkeys(METRICS, 0.0))
    whole = space.cost(space.base)
    bounds = {m: share * whole[m] for m, share in zip(METRICS, (0.6, 0.5, 0.8), strict=True)}
    scores = {(i, k): float(rng.lognormal(-2, 1)) if k else 0.0 for i in range(slots) for k in range(operators)}
    return space.within(Budget(bounds)), scores


def solver_seconds() -> list[dict[str, float]]:
    found = []
    for slots, operators in SIZES:
        space, scores = random_space(slots, operators)
        start = time.process_time()
        vectors = best_vectors(space, scores, SOLUTIONS, most_shared=int(0.8 * slots))
        seconds = time.process_time() - start
        found.append({"slots": slots, "operators": operators, "solutions": len(vectors), "seconds": round(seconds, 2)})
    return found


def ready() -> tuple[Prepared, SharedWeights, SearchConfig]:
    """ResNet-20 with the digits as its images: what is timed does not depend on what it has learnt."""
    config = SearchConfig(
        model="narfx:resnet20?in_channels=1", input=(1, 32, 32), data="digits", data_fraction=0.11, budget="none",
        strategy="nar", init="scratch", batch_size=128,
    )  # fmt: skip
    prepared = prepare(config, stages_of(config), "cpu", None)
    return prepared, SharedWeights(prepared.net, prepared.task, config, Silent(), Ranks(), prepared.method), config


def step_ratios(rounds: int = 3) -> dict[str, float]:
    """Medians over rounds of the time of a pass over the time of a training epoch of the base, image for image."""
    prepared, shared, config = ready()
    net, task, space = prepared.net, prepared.task, prepared.space

    def trained() -> None:
        net.set_vector(space.base)
        net.train()
        for x, y in task.train_batches(0):
            train_step(net, optimizer, task.objective, x, y, config.clip)

    passes: dict[str, Callable[[], object]] = {
        "training": trained,
        "base": lambda: Distil(2, mixed=1).train(0, 0, space, shared),
        "mixed": lambda: Distil(2, mixed=1).train(1, 1, space, shared),
    }
    optimizer = sgd(net, config)
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(rounds + 1):
        for name, run in passes.items():
            start = time.perf_counter()
            run()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    per_round = {name: np.array(values) / np.array(seconds["training"]) for name, values in seconds.items()}
    return {name: round(float(np.median(values)), 2) for name, values in per_round.items() if name != "training"}


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({"solver": solver_seconds(), "pass over a training epoch": step_ratios()}, indent=1))
