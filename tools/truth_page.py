"""The tables of ``ground_truth.py``, and the page that shows them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau
from truth_judges import PREPARED, SEARCHES
from truth_space import (
    BUDGET,
    TRUTHS,
    Options,
    space_of,
    vectors,
)

from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.support.files import read_json


def tables(options: Options) -> dict[str, Any]:
    space, chosen = space_of(options), vectors(options)
    macs = np.array([space.cost(vector)["macs"] for vector in chosen])
    truths = {kind: load_truth(options, kind) for kind in TRUTHS}
    judged: dict[str, list[Sequence[float]]] = {"MACs alone": [list(macs)] * options.seeds}
    for name in (*SEARCHES, *PREPARED):
        for seed in range(options.seeds):
            found = read_json(Path(options.out) / "judge" / f"{name}-{seed}.json")
            label = name if name in PREPARED else f"shared weights after {name}"
            judged.setdefault(f"{label}: accuracy", []).append(found["accuracies"])
            if "losses" in found:
                judged.setdefault(f"{label}: loss", []).append(found["losses"])
            if "predicted" in found:
                judged.setdefault(f"{label}: sum of scores", []).append(found["predicted"])
    result: dict[str, Any] = {"vectors": len(chosen), "truth": {}, "tau": {}, "regret": {}}
    for kind, per_seed in truths.items():
        mean = np.mean(per_seed, axis=0)
        result["truth"][kind] = {
            "mean": float(mean.mean()), "sd": float(mean.std()), "base": float(mean[0]), "best": float(mean.max()),
            "seeds_agree": float(kendalltau(per_seed[0], per_seed[-1]).statistic),
            "seeds_agree_at_equal_cost": equal_cost(per_seed[0], per_seed[-1], macs),
        }  # fmt: skip
        for name, seeds in judged.items():
            taus = [float(kendalltau(values, mean).statistic) for values in seeds]
            equal = [equal_cost(values, mean, macs) for values in seeds] if name != "MACs alone" else [0.0]
            result["tau"].setdefault(name, {})[kind] = [
                statistics.fmean(taus),
                statistics.fmean(equal),
                min(taus),
                max(taus),
            ]
        result["regret"][kind] = regrets(options, mean, chosen, space)
    return result


def load_truth(options: Options, kind: str) -> list[np.ndarray]:
    return [
        np.array([
            read_json(Path(options.out) / "truth" / f"{kind}-{seed}-{'_'.join(map(str, vector))}.json")["accuracy"]
            for vector in vectors(options)
        ])
        for seed in range(options.seeds)
    ]  # fmt: skip


def equal_cost(a: ArrayLike, b: ArrayLike, macs: Any) -> float:
    """Kendall's tau after a parabola in MACs was subtracted from each."""
    rest = [
        np.asarray(values, float) - np.polyval(np.polyfit(macs, np.asarray(values, float), 2), macs)
        for values in (a, b)
    ]
    return float(kendalltau(*rest).statistic)


def regrets(options: Options, truth: np.ndarray, chosen: Sequence[Vector], space: SearchSpace) -> dict[str, Any]:
    """How far each search's vector, and a uniform draw, is below the best one within the budget, in accuracy."""
    bound = float(BUDGET.partition("<=")[2].removesuffix("x")) * space.cost(space.base)["macs"]
    within = [index for index, vector in enumerate(chosen) if space.cost(vector)["macs"] <= bound]
    best, by = max(truth[index] for index in within), {vector: truth[i] for i, vector in enumerate(chosen)}
    dearest = max(within, key=lambda index: (space.cost(chosen[index])["macs"], index))
    found: dict[str, Any] = {
        "a uniform draw": [float(best - np.mean([truth[index] for index in within]))],
        "the most MACs": [float(best - truth[dearest])],
    }
    for name in SEARCHES:
        own = [
            tuple(read_json(Path(options.out) / "judge" / f"{name}-{seed}.json")["vector"])
            for seed in range(options.seeds)
        ]
        found[name] = [float(best - by[vector]) for vector in own]
    return found


def page(options: Options, result: Mapping[str, Any]) -> str:
    lines = [
        "# How well each judge ranks architectures",
        "",
        f"All {result['vectors']} vectors of a space of four slots and four operators ({options.model}, input "
        f"{'x'.join(map(str, options.input))}, {Path(options.data).name}, {options.images:.0%} of the images), "
        f"each trained stand-alone with {options.seeds} seeds: from scratch for {options.scratch_epochs} epochs, and "
        f"from the base's weights for {options.base_epochs}. `tools/ground_truth.py` makes this page.",
        "",
        "| truth | accuracy | s.d. | base | best | tau of two seeds | the same at equal cost |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, t in result["truth"].items():
        lines.append(
            f"| {kind} | {t['mean']:.4f} | {t['sd']:.4f} | {t['base']:.4f} | {t['best']:.4f} | "
            f"{t['seeds_agree']:.2f} | {t['seeds_agree_at_equal_cost']:.2f} |"
        )
    lines += [
        "",
        "Kendall's tau of each judge with the truth (mean over seeds), over all vectors and at equal cost (after a "
        "parabola in MACs was subtracted from both):",
        "",
        "| judge | truth from scratch | at equal cost | truth from the base | at equal cost |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, by in result["tau"].items():
        cells = [f"{value:.2f}" for kind in TRUTHS for value in by[kind][:2]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Regret: how far the vector of each search is below the best one within `{BUDGET}`, in points of accuracy, "
        "a value for each seed:",
        "",
        "| search | truth from scratch | truth from the base |",
        "| --- | ---: | ---: |",
    ]
    for name in result["regret"]["scratch"]:
        cells = [", ".join(f"{100 * value:.2f}" for value in result["regret"][kind][name]) for kind in TRUTHS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(line if line.startswith("|") else fill(line, 120) for line in lines) + "\n"
