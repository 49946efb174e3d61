"""The strategies at equal processor time, judged by a truth that is known: every vector trained on from the base.

    python tools/ground_truth.py --data fashion_mnist.npz --out runs/truth --only truths
    python tools/strategy_race.py --data fashion_mnist.npz --out runs/truth --seeds 5

The time is that of a default search by scores; with ``--times 6`` all have six times as long, and the search by scores
uses it for more passes and a second round. Each other strategy gets as many epochs as fit: its own time an epoch is
measured first. The figures are the accuracy of the vector found, trained on from the base and trained alone, and its
regret: what it lacks of the best vector within the budget, trained on from the base, in points of accuracy. What is
finished is kept, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from truth_page import load_truth
from truth_space import BUDGET, VALIDATION, Options, base_weights, narrowed, space_of, vectors

from narfx.search import SearchConfig, Stage, run
from narfx.search.preparation import Distil, WarmUp
from narfx.search.stages import Found, Narrowing, stages_of
from narfx.space.space import SearchSpace
from narfx.support.files import read_json, write_json
from narfx.tasks.precision import PrecisionName

RIVALS: dict[str, tuple[str, Distil | WarmUp]] = {
    "nar": ("nar", WarmUp(3)),
    "nar without warm-up": ("nar", WarmUp(0)),
    "nar, distilled": ("nar", Distil(2)),
    "evolution": ("evolution", WarmUp(3)),
    "random": ("random", WarmUp(3)),
    "darts": ("darts", WarmUp(0)),
    "gdas": ("gdas", WarmUp(0)),
    "stacnas": ("stacnas", WarmUp(0)),
}
OPTIONS: dict[str, dict[str, Any]] = {name: {"lr": 0.01} for name in ("darts", "gdas", "stacnas")}
"""Their default rate, 3e-4, is for searches of ten thousand steps."""
PROBE = (4, 8)
"""Epochs of the two searches that measure what an epoch costs a strategy."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data of the truth")
    parser.add_argument("--out", type=Path, required=True, help="the folder of tools/ground_truth.py")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--times", type=int, default=1, help="how many times the time of a default search by scores")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kept = read_json(given.out / "options.json")
    options = Options(
        **{**kept, "input": tuple(kept["input"]), "data": str(given.data.resolve()), "out": str(given.out.resolve())}
    )
    print(table(options, given.seeds, given.times))


def table(options: Options, seeds: int, times: int) -> str:
    """The races of all seeds, in Markdown."""
    solving = Distil(2) if times == 1 else Distil(2 * times, mixed=times)
    found = {"solve": [search(options, "solve", solving, 1 if times == 1 else 2, seed) for seed in range(seeds)]}
    limit = statistics.fmean(one["seconds"] for one in found["solve"])
    for name, (strategy, preparation) in RIVALS.items():
        epochs = epochs_within(limit, options, strategy, preparation)
        found[name] = [search(options, strategy, preparation, epochs, seed) for seed in range(seeds)]
    trained_on, alone = (Truth(options, name) for name in ("base", "scratch"))
    most, mean = trained_on.dearest, trained_on.mean
    lines = [
        "| strategy | epochs, preparation among them | processor time | regret | trained on | alone | regrets |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        f"| a uniform draw | | | {trained_on.best - mean:.2f} | {mean:.2f} | {alone.mean:.2f} | |",
        f"| the most MACs | | | {trained_on.best - trained_on.of(most):.2f} | {trained_on.of(most):.2f} | "
        f"{alone.of(most):.2f} | |",
    ]
    for name, runs in found.items():
        reached = [trained_on.of(one["vector"]) for one in runs]
        regrets = [trained_on.best - value for value in reached]
        share = statistics.fmean(one["seconds"] for one in runs) / limit
        lines.append(
            f"| {name} | {runs[0]['epochs']} | {share:.2f}x | {_mean(regrets)} | {_mean(reached)} | "
            f"{_mean([alone.of(one['vector']) for one in runs])} | {', '.join(f'{value:.2f}' for value in regrets)} |"
        )
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.2f} ± {error:.2f}"


class Truth:
    """The accuracy of each vector within the budget, in percent, by one of the truths."""

    def __init__(self, options: Options, name: str) -> None:
        space, chosen = space_of(options), vectors(options)
        truth = 100 * np.mean(load_truth(options, name), axis=0)
        bound = float(BUDGET.partition("<=")[2].removesuffix("x")) * space.cost(space.base)["macs"]
        self._known = {
            vector: float(value)
            for vector, value in zip(chosen, truth, strict=True)
            if space.cost(vector)["macs"] <= bound
        }
        self.best, self.mean = max(self._known.values()), statistics.fmean(self._known.values())
        most = max(space.cost(vector)["macs"] for vector in self._known)
        # Of several the last, as in the table of tools/ground_truth.py.
        self.dearest = [vector for vector in self._known if space.cost(vector)["macs"] == most][-1]

    def of(self, vector: Sequence[int]) -> float:
        """The accuracy of one vector."""
        return self._known[tuple(vector)]


def epochs_within(limit: float, options: Options, strategy: str, preparation: Distil | WarmUp) -> int:
    """How many epochs, preparation among them, take about ``limit`` seconds; at least one after the preparation."""
    short, long = (
        search(options, strategy, preparation, max(epochs - preparation.epochs, 1), seed=0) for epochs in PROBE
    )
    each = float((long["seconds"] - short["seconds"]) / (long["epochs"] - short["epochs"]))
    further = round((limit - float(short["seconds"])) / each)
    return max(int(short["epochs"]) + further - preparation.epochs, 1)


def search(
    options: Options, strategy: str, preparation: Distil | WarmUp, epochs: int, seed: int,
    precision: PrecisionName = "fp32",
) -> dict[str, Any]:  # fmt: skip
    """One search from the base's weights with ``epochs`` after the preparation: its vector, and its processor time."""
    kind = f"{type(preparation).__name__}{preparation.epochs}".lower()
    name = f"{strategy}-{kind}-{epochs}-{seed}{'' if precision == 'fp32' else f'-{precision}'}"
    place = Path(options.out) / "race" / name
    kept = place.with_suffix(".json")
    if not kept.exists():
        print(name, file=sys.stderr, flush=True)
        config = SearchConfig(
            model=options.model, input=options.input, data=options.data, data_fraction=options.images,
            val_fraction=VALIDATION, budget=BUDGET, seed=seed, strategy=strategy, weights=base_weights(options),
            epochs=preparation.epochs + epochs, pretrain_epochs=preparation.epochs,
            strategy_options=OPTIONS.get(strategy, {}), precision=precision,
        )  # fmt: skip
        start = time.process_time()
        result = run(config, place, device=options.device, overwrite=True, stages=_stages(config, preparation, epochs))
        seconds = time.process_time() - start
        write_json(kept, {"vector": result["vector"], "seconds": seconds, "epochs": config.epochs, "run": str(place)})
    return dict(read_json(kept))


def _stages(config: SearchConfig, preparation: Distil | WarmUp, epochs: int) -> list[Stage]:
    if config.strategy == "stacnas":
        return [replace(stage, space=partial(_within, stage.space)) for stage in stages_of(config)]
    return [Stage(narrowed, preparation, config.strategy, epochs, config.strategy_options)]


def _within(inner: Narrowing, space: SearchSpace, found: Found) -> SearchSpace:
    return inner(narrowed(space, found), found)


if __name__ == "__main__":
    main()
