"""What each judge of architectures is worth, against the truth: every vector of a small space, trained by itself.

Two truths: ``scratch`` trains each network from random weights, ``base`` trains it on from the base's weights, which
is what a user with weights gets. Against each, Kendall's tau of the judges that narfx has, over all vectors and at
equal cost, and the regret of the strategies. Whoever tunes a strategy should look here, not only at tables that stand
still. Everything is kept in the output folder, and a second call goes on from there.

    python tools/ground_truth.py --data fashion_mnist.npz --out runs/truth --jobs 2 --page docs/ground_truth.md

At equal cost: both the truth and the judge are taken as what is left of them after a fit on MACs (a parabola), since a
budget fixes the cost. The space has four slots of four operators, 256 vectors: the slots of a ResNet-8 that are not
named in ``FREE`` keep the base.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import kendalltau

from narfx.compiler.lowering import lower
from narfx.compiler.open import NetworkOptions, open_base
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.graph.batchnorm import batch_statistics
from narfx.inputs.weights import write_weights
from narfx.runs.progress import Silent
from narfx.search import SearchConfig, Stage, run
from narfx.search.judge import NetJudge
from narfx.search.preparation import NO_PREPARATION, Distil, WarmUp
from narfx.search.prepared import prepare
from narfx.search.shared_weights import SharedWeights
from narfx.search.stages import Found
from narfx.space.records import Vector
from narfx.space.scores import ScoreTable
from narfx.space.space import SearchSpace
from narfx.support.files import read_json, write_json, write_text
from narfx.support.ranks import Ranks
from narfx.support.seeds import derive
from narfx.tasks.options import DataOptions, open_task
from narfx.tasks.task import Task
from narfx.training.fit import fit
from narfx.training.initialise import reinitialise
from narfx.training.recipe import Recipe

FREE = (0, 2, 3, 5)
TRUTHS = ("scratch", "base")
BUDGET = "macs<=0.7x"
VALIDATION = 0.25


@dataclass(frozen=True)
class Options:
    """The measurement: the data, the network and how long everything is trained."""

    data: str
    out: str
    model: str
    input: tuple[int, int, int]
    images: float
    scratch_epochs: int
    base_epochs: int
    search_epochs: int
    seeds: int
    device: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as for narfx train")
    parser.add_argument("--out", required=True, help="the folder that keeps everything")
    parser.add_argument("--page", type=Path, help="a Markdown page that gets the tables")
    parser.add_argument("--model", default="narfx:resnet_cifar?depth=8&width=8&in_channels=1")
    parser.add_argument("--input", default="1,14,14")
    parser.add_argument("--images", type=float, default=0.08, help="share of the training images")
    parser.add_argument("--scratch-epochs", type=int, default=8)
    parser.add_argument("--base-epochs", type=int, default=3)
    parser.add_argument("--search-epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("truths", "judges"), help="a part of the work; the tables need both")
    given = parser.parse_args()
    channels, height, width = map(int, given.input.split(","))
    options = Options(
        data=str(Path(given.data).resolve()),
        out=str(Path(given.out).resolve()),
        model=given.model,
        input=(channels, height, width),
        images=given.images,
        scratch_epochs=given.scratch_epochs,
        base_epochs=given.base_epochs,
        search_epochs=given.search_epochs,
        seeds=given.seeds,
        device=given.device,
    )
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    check_same(out / "options.json", asdict(options))
    torch.set_num_threads(1)
    train_base(options)
    jobs = [] if given.only == "judges" else truth_jobs(options)
    jobs += [] if given.only == "truths" else judge_jobs(options)
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for done, name in enumerate(pool.map(work, [options] * len(jobs), jobs), 1):
            if done % 50 == 0 or len(jobs) - done < 20:
                print(f"{done}/{len(jobs)}: {name}", file=sys.stderr, flush=True)
    if given.only == "truths":
        return
    result = tables(options)
    write_json(out / "result.json", result)
    print(json.dumps(result, indent=1))
    if given.page:
        write_text(given.page, page(options, result))


def check_same(path: Path, options: Mapping[str, Any]) -> None:
    values = json.loads(json.dumps({key: value for key, value in options.items() if key not in ("data", "out")}))
    if path.exists() and read_json(path) != values:
        sys.exit(f"{path.parent} was begun with other options: {path}")
    write_json(path, values)


# What is trained


@cache
def opened(options: Options, weights: str | None) -> Traced:
    return open_base(NetworkOptions(model=options.model, input=options.input, weights=weights))


@cache
def task_of(options: Options) -> Task:
    data = DataOptions(data=options.data, data_fraction=options.images, val_fraction=VALIDATION)
    return open_task(data, options.input, seed=0, device=torch.device(options.device), label_smoothing=0.0)


def base_weights(options: Options) -> str:
    return str(Path(options.out) / "base.safetensors")


def train_base(options: Options) -> None:
    """The base that a user has: trained three times as long as the truth from scratch."""
    if Path(base_weights(options)).exists():
        return
    network = lower(Supernet(opened(options, None)), space_of(options).base)
    reinitialise(network, 0)
    found = fit(network.to(options.device), task_of(options), recipe(3 * options.scratch_epochs), seed=0)
    write_json(Path(options.out) / "base.json", found)
    write_weights(network, Path(base_weights(options)))


def recipe(epochs: int, lr: float = 0.1) -> Recipe:
    return Recipe(epochs=epochs, t0=epochs, lr=lr)


def space_of(options: Options) -> SearchSpace:
    """The space in which only the free slots have a choice."""
    return narrowed(opened(options, None).space, Found())


def narrowed(space: SearchSpace, found: Found) -> SearchSpace:
    """The stage's space of every search here."""
    return space.restrict({index: [0] for index in range(len(space)) if index not in FREE})


def vectors(options: Options) -> list[Vector]:
    return [tuple(vector) for vector in itertools.product(*(slot.legal for slot in space_of(options).slots))]


def truth_jobs(options: Options) -> list[tuple[str, ...]]:
    return [
        ("truth", kind, str(seed), json.dumps(vector))
        for seed in range(options.seeds)
        for kind in TRUTHS
        for vector in vectors(options)
    ]


def judge_jobs(options: Options) -> list[tuple[str, ...]]:
    names = (*SEARCHES, *PREPARED)
    return [("judge", name, str(seed), "") for seed in range(options.seeds) for name in names]


def work(options: Options, job: tuple[str, ...]) -> str:
    """One training or one judge, unless its file is there."""
    torch.set_num_threads(1)
    what, name, seed, vector = job
    path = (
        Path(options.out) / what / f"{name}-{seed}{'-' + '_'.join(map(str, json.loads(vector))) if vector else ''}.json"
    )
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        if what == "truth":
            found = truth(options, name, int(seed), tuple(json.loads(vector)))
        elif name in SEARCHES:
            found = searched(options, name, int(seed))
        else:
            found = prepared(options, name, int(seed))
        write_json(path, found)
    return path.stem


def truth(options: Options, kind: str, seed: int, vector: Vector) -> dict[str, Any]:
    """One network trained by itself; accuracy and loss on the test part."""
    network = lower(Supernet(opened(options, base_weights(options) if kind == "base" else None)), vector)
    if kind == "scratch":
        reinitialise(network, derive(seed, "truth"))
    found = fit(
        network.to(options.device),
        task_of(options),
        recipe(options.scratch_epochs, 0.1) if kind == "scratch" else recipe(options.base_epochs, 0.02),
        seed=seed,
    )
    return {"vector": list(vector), **{key: found["test"][key] for key in ("accuracy", "loss")}}


# Judges

SEARCHES: dict[str, dict[str, Any]] = {
    "nar from scratch": {"strategy": "nar", "init": "scratch"},
    "nar from the base": {"strategy": "nar"},
    "nar from the base, distilled": {"strategy": "nar", "distil": True},
    "evolution from the base": {"strategy": "evolution"},
    "random from the base": {"strategy": "random"},
    "solve": {"strategy": "solve"},
}
"""Whole searches: the vector that each finds, and how their shared weights rank all vectors at the end."""

PREPARED = {
    "base's weights, warm-started operators": 0,
    "operators distilled, 1 pass": 1,
    "operators distilled, 2 passes": 2,
}
"""Supernets that nothing trains but a preparation: their losses, and the sums of their scores."""


def searched(options: Options, name: str, seed: int) -> dict[str, Any]:
    values = dict(SEARCHES[name])
    distil = values.pop("distil", False)
    solving = values["strategy"] == "solve"
    config = SearchConfig(
        model=options.model, input=options.input, data=options.data, data_fraction=options.images,
        val_fraction=VALIDATION, budget=BUDGET, seed=seed, randoms=8,
        weights=None if values.get("init") == "scratch" else base_weights(options),
        epochs=3 if solving else options.search_epochs, pretrain_epochs=2 if solving else 3, **values,
    )  # fmt: skip
    preparation = Distil(2) if solving or distil else WarmUp(config.pretrain_epochs)
    stage = Stage(narrowed, preparation, config.strategy, config.epochs - preparation.epochs)
    place = Path(options.out) / "runs" / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    result = run(config, place, device=options.device, overwrite=True, stages=[stage])
    net = Supernet(opened(options, config.weights))
    state = torch.load(place / "checkpoint.pt", map_location="cpu", weights_only=True)["state"]["net"]
    net.load_state_dict(state)
    found = {"vector": result["vector"], "accuracies": accuracies(net.to(options.device), options)}
    if solving:
        found["predicted"] = predicted(ScoreTable.load(place / "scores.json"), options)
    return found


def prepared(options: Options, name: str, seed: int) -> dict[str, Any]:
    passes = PREPARED[name]
    config = SearchConfig(
        model=options.model, input=options.input, data=options.data, data_fraction=options.images,
        val_fraction=VALIDATION, budget="none", weights=base_weights(options), seed=seed, strategy="solve",
        pretrain_epochs=passes, epochs=passes + 1,
    )  # fmt: skip
    preparation = Distil(passes, mixed=passes // 2) if passes else NO_PREPARATION
    ready = prepare(config, [Stage(narrowed, preparation, "solve", 1)], options.device, None)
    shared, space = SharedWeights(ready.net, ready.task, config, Silent(), Ranks(), ready.method), space_of(options)
    for number in range(passes):
        preparation.train(number, number, space, shared)
    judge = NetJudge(ready.net, ready.task, config.score_images, Silent())
    singles = [(i, k) for i, slot in enumerate(space.slots) for k in slot.legal if k]
    rises = judge([tuple(k if index == i else 0 for index in range(len(space))) for i, k in singles], "")
    scores = {pair: judged.loss for pair, judged in zip(singles, rises, strict=True)}
    table = ScoreTable.of(space, scores, measured="loss", images=judge.images)
    return {
        "losses": [-judged.loss for judged in judge(vectors(options), "")],
        "predicted": predicted(table, options),
        "accuracies": accuracies(ready.net, options),
    }


def predicted(table: ScoreTable, options: Options) -> list[float]:
    return [-table.predict(vector) for vector in vectors(options)]


def accuracies(net: Supernet, options: Options) -> list[float]:
    """The accuracy of all vectors with shared weights: batch statistics, all minibatches of the validation part."""
    task = task_of(options)
    batches = list(task.reward_batches(0, max(len(task.data.val) // 256, 1), 256))
    found = []
    for vector in vectors(options):
        net.set_vector(vector)
        with batch_statistics(net):
            found.append(statistics.fmean(task.reward(net, batch) for batch in batches))
    return found


# Tables


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
    """Kendall's tau of what a parabola in MACs leaves of each."""
    rest = [
        np.asarray(values, float) - np.polyval(np.polyfit(macs, np.asarray(values, float), 2), macs)
        for values in (a, b)
    ]
    return float(kendalltau(*rest).statistic)


def regrets(options: Options, truth: np.ndarray, chosen: Sequence[Vector], space: SearchSpace) -> dict[str, Any]:
    """What each search's vector lacks of the best one within the budget, in accuracy; and what uniform draws lack."""
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
        "# What the judges are worth",
        "",
        f"All {result['vectors']} vectors of a space of four slots and four operators ({options.model}, input "
        f"{'x'.join(map(str, options.input))}, {Path(options.data).name}, {options.images:.0%} of the images), "
        f"each trained by itself with {options.seeds} seeds: from scratch for {options.scratch_epochs} epochs, and "
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
        "Kendall's tau of each judge with the truth (mean over seeds), over all vectors and at equal cost (what a "
        "parabola in MACs leaves of both):",
        "",
        "| judge | truth from scratch | at equal cost | truth from the base | at equal cost |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, by in result["tau"].items():
        cells = [f"{value:.2f}" for kind in TRUTHS for value in by[kind][:2]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Regret: what the vector of each search lacks of the best one within `{BUDGET}`, in points of accuracy, "
        "a value for each seed:",
        "",
        "| search | truth from scratch | truth from the base |",
        "| --- | ---: | ---: |",
    ]
    for name in result["regret"]["scratch"]:
        cells = [", ".join(f"{100 * value:.2f}" for value in result["regret"][kind][name]) for kind in TRUTHS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(line if line.startswith("|") else fill(line, 120) for line in lines) + "\n"


if __name__ == "__main__":
    main()
