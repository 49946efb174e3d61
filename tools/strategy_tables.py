"""Strategies on tables of known rewards, without any network: what each finds for the same number of evaluations.

    OMP_NUM_THREADS=1 python tools/strategy_tables.py            # the tables of docs/strategies.md
    python tools/strategy_tables.py --json > tables.json

Short searches: 8 slots of 3 operators, all 6,561 rewards known. A reward is a sum over slots plus weak interactions
of all pairs of slots. ``smooth`` tables are just that; ``rugged`` ones add a fixed term to each vector, half as wide
as the table; ``noisy`` ones add the same term to what is observed, but not to what counts. A vector proposed again is
observed from a cache and costs nothing, and a search ends after a number of distinct vectors. Regret is the distance
to the best vector of the table; 1 is the distance from the best to the mean.

Long searches: 16 slots of 4 operators under a budget, each evaluation with noise of its own, so that nothing is
cached: what a search on shared weights looks like. Heights are standard deviations above uniform feasible vectors.

Joint searches: the same with the skip domain, 8 nodes of 4 operators and the 21 skips from t to j with t <= j - 2, each
slot and each skip with a worth of its own; and the gradients of the operator part and of the skip part.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from narfx.analysis.steps import curve
from narfx.search import Proposal, Result, Strategy, make_strategy
from narfx.space.budget import Budget
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace

STRATEGIES = ("random", "evolution", "nar")
LEARNERS, LOTS = ("nar", "evolution"), (5, 10, 25)
JOINT = (*STRATEGIES, "enas", "alternating")
KINDS = ("smooth", "rugged", "noisy")
SOME = ("smooth", "noisy")
STEPS = 500  # a strategy that only repeats itself ends here


class Rewards:
    """Rewards in standard deviations: one of each (slot, operator), and one of each pair of these."""

    def __init__(self, slots: int, operators: int, seed: int, *, interaction: float, slope: float = 0.0) -> None:
        rng = np.random.default_rng([seed, slots, operators])
        self.single = rng.normal(size=(slots, operators)) - slope * np.arange(operators)
        self.pair = interaction * rng.normal(size=(slots, operators, slots, operators))
        self.slots = np.arange(slots)
        drawn = self.raw(rng.integers(0, operators, (2000, slots)))
        self.mean, self.spread = drawn.mean(), drawn.std()

    def raw(self, vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Sums for vectors (n, slots), before they are scaled."""
        slots, total = self.slots, np.zeros(len(vectors))
        for slot in slots:
            total += self.single[slot, vectors[:, slot]]
            total += self.pair[slot, vectors[:, slot, None], slots[slot + 1 :], vectors[:, slot + 1 :]].sum(1)
        return total

    def of(self, vectors: Iterable[Vector]) -> np.ndarray[Any, Any]:
        """Rewards of vectors, mean 0 and standard deviation 1 over uniform ones."""
        rewards: np.ndarray[Any, Any] = (self.raw(np.array(list(vectors))) - self.mean) / self.spread
        return rewards


class Table:
    """All rewards of 8 slots of 3 operators: what is observed, and what counts."""

    def __init__(self, kind: str, seed: int, slots: int = 8, operators: int = 3) -> None:
        self.space = SearchSpace.uniform(slots, operators)
        vectors = list(itertools.product(range(operators), repeat=slots))
        smooth = Rewards(slots, operators, seed, interaction=0.3).of(vectors)
        rough = smooth + 0.5 * np.random.default_rng([seed, 1]).normal(size=len(vectors))
        self.observed: dict[Vector, float] = dict(
            zip(vectors, (smooth if kind == "smooth" else rough).tolist(), strict=True)
        )
        self.true: dict[Vector, float] = dict(
            zip(vectors, (rough if kind == "rugged" else smooth).tolist(), strict=True)
        )
        self.best, self.mean = max(self.true.values()), statistics.fmean(self.true.values())

    def regret(self, vector: Vector) -> float:
        """What is missing to the best, in distances from the best to the mean."""
        return (self.best - self.true[vector]) / (self.best - self.mean)


@functools.cache
def table(kind: str, seed: int) -> Table:
    """A table, made once."""
    return Table(kind, seed)


def short_search(
    rewards: Table, name: str, seed: int, *, evaluations: int, size: int, scale: float, offset: float
) -> dict[str, float]:
    """One search on a table: ``found`` is the least regret of all evaluated, ``kept`` that of the best observed."""
    strategy = make_strategy(name, rewards.space, seed=seed)
    seen: dict[Vector, float] = {}
    steps = 0
    while len(seen) < evaluations and steps < STEPS:
        observed = []
        for proposal in strategy.ask(size):
            if proposal.vector not in seen and len(seen) == evaluations:
                break
            seen[proposal.vector] = rewards.observed[proposal.vector]
            observed.append(proposal)
        strategy.tell(observed, [Result(offset + scale * seen[proposal.vector]) for proposal in observed])
        steps += 1
    kept = max(seen, key=lambda vector: seen[vector])
    return {
        "found": min(map(rewards.regret, seen)),
        "kept": rewards.regret(kept),
        "steps": float(steps),
        "evaluations": float(len(seen)),
    }


def short_searches(
    seeds: int,
    evaluations: int,
    *,
    kinds: Sequence[str] = KINDS,
    size: int = 5,
    scale: float = 1.0,
    offset: float = 0.0,
) -> list[dict[str, Any]]:
    """All strategies on all tables of some kinds: means, standard errors, and how often nar beats the others."""
    rows = []
    for kind in kinds:
        tables = [table(kind, seed) for seed in range(seeds)]
        runs = {
            name: [
                short_search(known, name, seed, evaluations=evaluations, size=size, scale=scale, offset=offset)
                for seed, known in enumerate(tables)
            ]
            for name in STRATEGIES
        }
        for name in STRATEGIES:
            pairs = [(nar["found"], other["found"]) for nar, other in zip(runs["nar"], runs[name], strict=True)]
            wins = statistics.fmean((mine < its) + (mine == its) / 2 for mine, its in pairs)
            rows.append(
                {
                    "table": kind,
                    "strategy": name,
                    "size": size,
                    "scale": scale,
                    "offset": offset,
                    **{key: mean_and_error([run[key] for run in runs[name]]) for key in ("found", "kept", "steps")},
                    "evaluations": statistics.fmean(run["evaluations"] for run in runs[name]),
                    "beaten_by_nar": None if name == "nar" else wins,
                }
            )
            say(f"{kind}, {name}, batches of {size}, {scale:g} R + {offset:g}")
    return rows


def long_search(name: str, seed: int, space: SearchSpace, steps: int, size: int = 5) -> dict[str, float]:
    """One search with fresh noise; heights of its batches along the way and of its finalists."""
    rewards = Rewards(len(space), len(space.operators), seed, interaction=0.15, slope=0.5)
    rng, sampler = np.random.default_rng([seed, 2]), FeasibleSampler(space)
    uniform = rewards.of(sampler.draw(rng) for _ in range(300))
    strategy: Strategy = make_strategy(name, space, seed=seed)
    found: dict[str, float] = {}
    gradients: dict[str, list[float]] = {"operators": [], "skips": []}
    for step in range(1, steps + 1):
        proposals: list[Proposal] = strategy.ask(size)
        truth = rewards.of(proposal.vector for proposal in proposals)
        observed = truth + 0.7 * rng.normal(size=size)
        metrics = strategy.tell(proposals, [Result(reward) for reward in observed.tolist()])
        for part, norm in metrics.get("gradient", {}).items():
            gradients.setdefault(part, []).append(norm)
        for label, share in (("tenth", 0.1), ("half", 0.5), ("end", 1.0)):
            if step == max(round(share * steps), 1):
                found[label] = float((truth.mean() - uniform.mean()) / uniform.std())
                if "entropy" in metrics:
                    found[f"entropy_{label}"] = metrics["entropy"]
    finalists = (rewards.of(strategy.finalists(10)) - uniform.mean()) / uniform.std()
    for part, series in gradients.items():
        if space.skip_slots and series:
            numbers = {key: value for key, value in curve(series).items() if value is not None}
            found |= {f"{part}_{key}": numbers[key] for key in ("std_over_mean", "lag1") if key in numbers}
    return {**found, "first": float(finalists[0]), "best_of_10": float(finalists.max())}


def long_searches(seeds: int, steps: int) -> list[dict[str, Any]]:
    """All strategies with no budget, half the base's cost and a quarter of it."""
    rows = []
    for budget, name in itertools.product((None, 0.5, 0.25), STRATEGIES):
        space = SearchSpace.uniform(16, 4)
        if budget is not None:
            space = space.within(Budget({"macs": budget * space.cost(space.base)["macs"]}))
        runs = [long_search(name, seed, space, steps) for seed in range(seeds)]
        row = {key: mean_and_error([run[key] for run in runs]) for key in runs[0]}
        rows.append({"budget": budget, "strategy": name, "steps": steps, **row})
        say(f"16 slots of 4, budget {budget}, {name}")
    return rows


def lot_searches(seeds: int, evaluations: int) -> list[dict[str, Any]]:
    """Strategies with batches of 5, 10 and 25 for the same number of evaluations, each with noise of its own."""
    rows = []
    for budget, name, size in itertools.product((None, 0.5), LEARNERS, LOTS):
        space = SearchSpace.uniform(16, 4)
        if budget is not None:
            space = space.within(Budget({"macs": budget * space.cost(space.base)["macs"]}))
        runs = [long_search(name, seed, space, max(evaluations // size, 1), size) for seed in range(seeds)]
        row = {key: mean_and_error([run[key] for run in runs]) for key in ("half", "end", "first", "best_of_10")}
        rows.append({"budget": budget, "strategy": name, "size": size, **row})
        say(f"16 slots of 4, budget {budget}, {name}, batches of {size}: first finalist {show(row['first'], 2)}")
    return rows


def joint_searches(seeds: int, steps: int) -> list[dict[str, Any]]:
    """The strategies on operators and skips together."""
    rows = []
    for name in JOINT:
        runs = [long_search(name, seed, SearchSpace.uniform(8, 4, skips=True), steps) for seed in range(seeds)]
        shared = [key for key in runs[0] if all(key in run for run in runs)]
        rows.append(
            {"strategy": name, "steps": steps, **{key: mean_and_error([r[key] for r in runs]) for key in shared}}
        )
        say(f"8 nodes of 4 with skips, {name}")
    return rows


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """The mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "error": error}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(number: dict[str, float], digits: int = 3) -> str:
    return f"{number['mean']:.{digits}f} ± {number['error']:.{digits}f}"


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_all(result: dict[str, Any]) -> None:
    """The tables of the documentation, in Markdown."""

    def beaten(row: dict[str, Any]) -> str:
        return "" if row["beaten_by_nar"] is None else f"{100 * row['beaten_by_nar']:.0f} %"

    print_table(
        f"{result['evaluations']} distinct evaluations in batches of 5, {result['seeds']} tables of each kind",
        ["table", "strategy", "regret of the best found", "regret of the best observed", "batches", "nar finds better"],
        ([r["table"], r["strategy"], show(r["found"]), show(r["kept"]), f"{r['steps']['mean']:.0f}", beaten(r)]
         for r in result["main"]),
    )  # fmt: skip
    print_table(
        f"Batches of other sizes and rewards of other ranges, {result['variant_seeds']} tables of each kind "
        "(regret of the best found)",
        ["batches of", "observed", "table", *STRATEGIES],
        ([str(size), f"{scale:g} R + {offset:g}", table, *(show(r["found"]) for r in rows)]
         for (size, scale, offset, table), rows in itertools.groupby(
             result["variants"], lambda r: (r["size"], r["scale"], r["offset"], r["table"]))),
    )  # fmt: skip
    print_table(
        f"16 slots of 4 operators, noisy rewards, {result['long_steps']} batches of 5, {result['long_seeds']} seeds "
        "(heights; entropy in nats a decision, 1.39 is uniform)",
        ["budget", "strategy", "batch at 10 %", "at 50 %", "at the end", "first finalist", "best of 10", "entropy"],
        ([f"{r['budget']:g}x" if r["budget"] else "none", r["strategy"],
          *(show(r[key], 2) for key in ("tenth", "half", "end", "first", "best_of_10")),
          ", ".join(f"{r[f'entropy_{key}']['mean']:.2f}" for key in ("tenth", "half", "end"))
          if r["strategy"] == "nar" else ""] for r in result["long"]),
    )  # fmt: skip
    print_joint(result["joint"], result["long_steps"], result["long_seeds"])


def print_joint(rows: Iterable[dict[str, Any]], steps: int, seeds: int) -> None:
    heights = ("tenth", "half", "end", "first", "best_of_10")
    smooth = [f"{part}_{name}" for part in ("operators", "skips") for name in ("std_over_mean", "lag1")]
    print_table(
        f"8 nodes of 4 operators with 21 skips, noisy rewards, {steps} batches of 5, {seeds} seeds",
        ["strategy", "batch at 10 %", "at 50 %", "at the end", "first finalist", "best of 10",
         "gradient of operators: std / mean", "lag 1", "of skips: std / mean", "lag 1"],
        ([r["strategy"], *(show(r[key], 2) if key in r else "" for key in (*heights, *smooth))] for r in rows),
    )  # fmt: skip


def print_lots(rows: Iterable[dict[str, Any]], evaluations: int, seeds: int) -> None:
    heights = ("half", "end", "first", "best_of_10")
    print_table(
        f"16 slots of 4 operators, noisy rewards, {evaluations} evaluations in batches of other sizes, {seeds} seeds",
        ["budget", "strategy", "batches of", "batch at 50 %", "at the end", "first finalist", "best of 10"],
        ([f"{r['budget']:g}x" if r["budget"] else "none", r["strategy"], str(r["size"]),
          *(show(r[key], 2) for key in heights)] for r in rows),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=60, help="tables of each kind [60]")
    parser.add_argument("--evaluations", type=int, default=100, help="distinct vectors of a short search [100]")
    parser.add_argument("--quick", action="store_true", help="a few seeds and steps, to see that it runs")
    parser.add_argument("--joint", action="store_true", help="only the joint searches")
    parser.add_argument("--lots", action="store_true", help="only batches of other sizes, 750 evaluations each")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, evaluations = (2, 20) if options.quick else (options.seeds, options.evaluations)
    fewer = max(seeds // 3, 1)
    long_seeds, long_steps = (1, 5) if options.quick else (max(seeds // 6, 1), 150)
    if options.joint:
        rows = joint_searches(long_seeds, long_steps)
        if options.json:
            print(json.dumps({"joint": rows}, allow_nan=False))
        else:
            print_joint(rows, long_steps, long_seeds)
        return
    if options.lots:
        rows = lot_searches(seeds, 50 if options.quick else 750)
        if options.json:
            print(json.dumps({"lots": rows}, allow_nan=False))
        else:
            print_lots(rows, 50 if options.quick else 750, seeds)
        return
    settings: list[dict[str, Any]] = [{"size": 1}, {"size": 10}]
    settings += [{"scale": 1000.0}, {"scale": 0.001}, {"offset": 1e6}]
    result = {
        "seeds": seeds,
        "evaluations": evaluations,
        "main": short_searches(seeds, evaluations),
        "variant_seeds": fewer,
        "variants": [
            row for setting in settings for row in short_searches(fewer, evaluations, kinds=SOME, **setting)
        ],
        "long_seeds": long_seeds,
        "long_steps": long_steps,
        "long": long_searches(long_seeds, long_steps),
        "joint": joint_searches(long_seeds, long_steps),
    }  # fmt: skip
    if options.json:
        print(json.dumps(result, allow_nan=False))
    else:
        print_all(result)


if __name__ == "__main__":
    main()
