"""The strategies on tables of known rewards and costs: the hypervolume of what they found, against evaluations.

A reward is an accuracy-like number: 0.7 on the mean of uniform vectors, 0.05 a standard deviation. It is a sum over
slots plus weak interactions of all pairs plus a share that rises with the cost (``smooth``). ``rugged`` tables add a
fixed term to each vector, half as wide as the table; ``noisy`` ones add that term to what is observed, but not to what
counts. Every slot has costs of its own. The sizes are 8 slots of 3 choices, whose front is known exactly, and 16 of
4, whose front is that of a local search for many weights of the cost.

A vector proposed again is observed from a cache and costs nothing, and a search ends after 500 distinct vectors. Of
the evaluated vectors those that no other one beats by their observed rewards are kept, as a user would keep them, and
these count with their true rewards. The hypervolume has the base's cost and a reward three standard deviations below
the mean as its reference, and is a share of the front's.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from strategy_tables import Rewards, mean_and_error, print_table, say, show

from narfx.search import Proposal, Result, make_strategy
from narfx.space.dominance import nondominated
from narfx.space.hypervolume import hypervolume
from narfx.space.records import Slot, Vector
from narfx.space.space import SearchSpace
from narfx.support.figures import render

STRATEGIES = ("random", "evolution", "nsga2", "ddas")
KINDS = ("smooth", "rugged", "noisy")
SIZES = ((8, 3), (16, 4))
COUNTS = (100, 200, 500)
LISTED = 20_000
MEAN, SPREAD, LOWEST = 0.7, 0.05, -3.0
STEPS = 300  # a strategy that only repeats itself ends here

Array = np.ndarray[Any, Any]


class FrontTable:
    """Rewards and costs of all vectors of a space: what is observed, and what counts."""

    def __init__(self, kind: str, slots: int, choices: int, seed: int) -> None:
        rng = np.random.default_rng([seed, slots, choices, 7])
        shares = np.sort(rng.uniform(0.1, 1.0, (slots, choices)), axis=1)[:, ::-1]
        shares[:, 0] = 1.0
        self.costs = shares * np.exp(0.5 * rng.normal(size=(slots, 1)))
        self.costs /= self.costs[:, 0].sum()
        names = ("base", *(f"op{index}" for index in range(1, choices)))
        self.space = SearchSpace(
            names,
            tuple(
                Slot(f"slot{i}", (), tuple(range(choices)), {}, {"macs": tuple(row)}, choices=names)
                for i, row in enumerate(self.costs.tolist())
            ),
        )
        self.kind, self.seed, self.slots = kind, seed, np.arange(slots)
        self.worths = Rewards(slots, choices, seed, interaction=0.3)
        drawn = self.cost(rng.integers(0, choices, (2000, slots)))
        self.cost_mean, self.cost_spread = drawn.mean(), drawn.std()

    def cost(self, vectors: Array) -> Array:
        """Shares of the base's cost, for vectors (n, slots)."""
        costs: Array = self.costs[self.slots, vectors].sum(1)
        return costs

    def heights(self, vectors: Array, rough: bool) -> Array:
        """Rewards in standard deviations above the mean."""
        worth = self.worths.of(vectors) + (self.cost(vectors) - self.cost_mean) / self.cost_spread
        heights: Array = worth / 2**0.5
        return heights + 0.5 * self.noise(vectors) if rough else heights

    def noise(self, vectors: Array) -> Array:
        """A normal number for each vector, always the same: its index, hashed twice (SplitMix64)."""
        index = np.zeros(len(vectors), dtype=np.uint64)
        for column in vectors.T.astype(np.uint64):
            index = index * np.uint64(self.costs.shape[1]) + column
        one, two = (_hashed(2 * index + np.uint64(k), self.seed) for k in (0, 1))
        normal: Array = np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * two)
        return normal

    def observed(self, vectors: Array) -> Array:
        """The rewards that a strategy is told."""
        return MEAN + SPREAD * self.heights(vectors, self.kind != "smooth")

    def true(self, vectors: Array) -> Array:
        """The rewards that count."""
        return MEAN + SPREAD * self.heights(vectors, self.kind == "rugged")

    def volume(self, rewards: Array, costs: Array) -> float:
        """The hypervolume of these points."""
        points = np.stack([rewards, -costs], 1)
        records = [{"accuracy": reward, "macs": -gain} for reward, gain in points[nondominated(points)].tolist()]
        return hypervolume(records, {"accuracy": MEAN + LOWEST * SPREAD, "macs": 1.0})

    @functools.cached_property
    def best(self) -> float:
        """The hypervolume of the front: of all vectors, or of a long local search."""
        slots, choices = self.costs.shape
        if choices**slots <= LISTED:
            vectors = np.array(list(itertools.product(range(choices), repeat=slots)))
            return self.volume(self.true(vectors), self.cost(vectors))
        visited = [self._climbed(weight, start) for weight in np.linspace(0, 1, 21) for start in range(8)]
        rewards, costs = (np.concatenate(column) for column in zip(*visited, strict=True))
        return self.volume(rewards, costs)

    def _climbed(self, weight: float, start: int) -> tuple[Array, Array]:
        """Rewards and costs met on the way to a vector that no change of one slot betters, for one weight."""
        slots, choices = self.costs.shape
        here: Array = np.random.default_rng([self.seed, start]).integers(0, choices, (slots,))
        met: list[tuple[Array, Array]] = []
        value = -np.inf
        while True:
            around = np.repeat(here[None], slots * choices, 0)
            around[np.arange(slots * choices), np.repeat(self.slots, choices)] = np.tile(np.arange(choices), slots)
            rewards, costs = self.true(around), self.cost(around)
            met.append((rewards, costs))
            values = (1 - weight) * (rewards - MEAN) / SPREAD - weight * costs / self.cost_spread
            if values.max() <= value:
                return tuple(map(np.concatenate, zip(*met, strict=True)))  # type: ignore[return-value]
            value, here = float(values.max()), around[int(values.argmax())]


def _hashed(numbers: Array, seed: int) -> Array:
    """SplitMix64, as numbers in [0, 1)."""
    x = numbers + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


@functools.cache
def table(kind: str, slots: int, choices: int, seed: int) -> FrontTable:
    """A table, made once."""
    return FrontTable(kind, slots, choices, seed)


def search(
    known: FrontTable, name: str, seed: int, grid: Sequence[int], size: int = 5, **options: Any
) -> dict[str, Any]:
    """One search: at each count of the grid the share of the front's hypervolume, of what is kept and of all."""
    strategy = make_strategy(name, known.space, seed=seed, **options)
    seen: dict[Vector, float] = {}
    steps, begun = 0, time.process_time()
    while len(seen) < grid[-1] and steps < STEPS:
        proposals = strategy.ask(size)
        rewards = known.observed(np.array([proposal.vector for proposal in proposals])).tolist()
        told: list[tuple[Proposal, Result]] = []
        for proposal, reward in zip(proposals, rewards, strict=True):
            if proposal.vector not in seen and len(seen) == grid[-1]:
                break
            seen[proposal.vector] = reward
            told.append((proposal, Result(reward, known.space.cost(proposal.vector))))
        strategy.tell([proposal for proposal, _ in told], [result for _, result in told])
        steps += 1
    spent = time.process_time() - begun
    vectors = np.array([*seen])
    observed, true, costs = np.array([*seen.values()]), known.true(vectors), known.cost(vectors)
    kept, found = [], []
    for n in grid:
        front = nondominated(np.stack([observed[:n], -costs[:n]], 1))
        kept.append(known.volume(true[:n][front], costs[:n][front]) / known.best)
        found.append(known.volume(true[:n], costs[:n]) / known.best)
    return {"kept": kept, "found": found, "evaluations": len(seen), "batches": steps, "seconds": spent}


def searches(seeds: Sequence[int], grid: Sequence[int], known: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """All strategies on all tables: means and standard errors at each count of the grid."""
    rows = []
    for which, name in itertools.product(known, STRATEGIES):
        runs = [search(table(*which, seed), name, seed, grid) for seed in seeds]
        rows.append(row_of(which, name, runs))
        say(f"{which}, {name}: {show(rows[-1]['kept'][-1])}, {rows[-1]['seconds']:.1f} s")
    return rows


def row_of(which: tuple[str, int, int], name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The runs of one strategy on the tables of one kind."""
    row: dict[str, Any] = dict(zip(("table", "slots", "choices"), which, strict=True)) | {"strategy": name}
    for key in ("kept", "found"):
        row[key] = [mean_and_error(values) for values in zip(*(run[key] for run in runs), strict=True)]
    return row | {key: statistics.fmean(run[key] for run in runs) for key in ("evaluations", "seconds")}


def print_rows(result: dict[str, Any]) -> None:
    """The table of the documentation, in Markdown; the differences are in standard errors of the two together."""
    at = [result["grid"].index(n) for n in result["counts"]]
    rows = []
    for _, group in itertools.groupby(result["rows"], lambda row: (row["slots"], row["choices"], row["table"])):
        of = {row["strategy"]: row for row in group}
        for name, row in of.items():
            apart = [of["random"], of["nsga2"]] if name == "ddas" else []
            rows.append([
                f"{row['slots']}x{row['choices']} {row['table']}", name, *(show(row["kept"][i]) for i in at),
                *(", ".join(f"{_apart(row['kept'][i], other['kept'][i]):+.1f}" for i in at) for other in apart),
            ])  # fmt: skip
    print_table(
        f"Share of the front's hypervolume after so many distinct evaluations, {result['seeds']} tables of each kind",
        ["table", "strategy", *map(str, result["counts"]), "above random", "above nsga2"],
        (row + [""] * (len(result["counts"]) + 4 - len(row)) for row in rows),
    )


def _apart(one: dict[str, float], other: dict[str, float]) -> float:
    return (one["mean"] - other["mean"]) / max(float(np.hypot(one["error"], other["error"])), 1e-12)


def draw(result: dict[str, Any], path: Path) -> None:
    """The curves of all tables, a panel each; the bands are two standard errors wide on either side."""
    panels = [[*group] for _, group in itertools.groupby(result["rows"], lambda r: (r["slots"], r["table"]))]
    columns = min(len(panels), len(KINDS))

    def onto(figure: Any) -> None:
        axes = figure.subplots(-(-len(panels) // columns), columns, sharex=True, squeeze=False).flatten()
        for axis, rows in zip(axes, panels, strict=False):
            for index, row in enumerate(rows):
                means, errors = (np.array([point[key] for point in row["kept"]]) for key in ("mean", "error"))
                axis.plot(result["grid"], means, color=f"C{index}", linewidth=1.2, label=row["strategy"])
                band = (means - 2 * errors, means + 2 * errors)
                axis.fill_between(result["grid"], *band, color=f"C{index}", alpha=0.2, linewidth=0)
            axis.set_title(f"{rows[0]['slots']} slots of {rows[0]['choices']}, {rows[0]['table']}", fontsize=9)
            axis.tick_params(labelsize=8)
        axes[0].set_ylabel("share of the front's hypervolume", fontsize=8)
        axes[0].legend(fontsize=8, loc="lower right", frameon=False)
        axes[-1].set_xlabel("distinct evaluations", fontsize=8)

    for kind, content in render(onto, 3.2 * columns, 2.6 * -(-len(panels) // columns)).items():
        path.with_suffix(f".{kind}").write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="tables of each kind [20]")
    parser.add_argument("--first", type=int, default=0, help="the first seed [0]")
    parser.add_argument("--quick", action="store_true", help="a few seeds and evaluations, to see that it runs")
    parser.add_argument("--figure", type=Path, help="draw the curves into FIGURE.svg and FIGURE.png")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = (10, 20) if options.quick else COUNTS
    grid = [*range(10, counts[-1] + 1, 10)]
    known = [(kind, *size) for size in (SIZES[:1] if options.quick else SIZES) for kind in KINDS]
    seeds = range(options.first, options.first + (2 if options.quick else options.seeds))
    result = {"seeds": len(seeds), "counts": counts, "grid": grid, "rows": searches(seeds, grid, known)}
    if options.figure:
        draw(result, options.figure)
    if options.json:
        print(json.dumps(result, allow_nan=False))
    else:
        print_rows(result)


if __name__ == "__main__":
    main()
