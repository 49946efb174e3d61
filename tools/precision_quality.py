"""What bfloat16 does to a search: the vectors that it finds, and how rewards and losses rank the same vectors.

Searches in both formats, seed by seed, in the space of ``ground_truth.py`` and from the same base; each vector found is
trained on from the base, in float32, and judged on the test part. Then all 256 vectors get rewards and losses in both
formats, on the same shared weights and images: Kendall's tau says how much the order changes. Beside it is the tau of
two minibatches in float32, which is what a search lives with in any case. At last the base is trained from scratch in
both formats.

    OMP_NUM_THREADS=1 python tools/precision_quality.py --data fashion_mnist.npz --out runs/precision --seeds 4

What is finished is kept, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from ground_truth import check_same, recipe, train_base, work
from scipy.stats import kendalltau
from strategy_race import search
from truth_space import Options, base_weights, opened, space_of, task_of, vectors

from narfx.compiler.lowering import lower
from narfx.compiler.prefixes import Prefixes
from narfx.compiler.supernet import Supernet
from narfx.runs.progress import Silent
from narfx.search.epochs import quick_rewards
from narfx.search.judge import NetJudge
from narfx.search.preparation import Distil, WarmUp
from narfx.support.files import read_json, write_json
from narfx.tasks.precision import Precision, PrecisionName
from narfx.tasks.task import Task
from narfx.training.fit import fit
from narfx.training.initialise import reinitialise

SEARCHES: dict[str, tuple[str, Distil | WarmUp, int]] = {
    "solve": ("solve", Distil(2), 1),
    "nar": ("nar", WarmUp(3), 3),
    "darts": ("darts", WarmUp(0), 3),
}
"""A strategy, what prepares its supernet, and its own epochs."""
FORMATS: tuple[PrecisionName, ...] = get_args(PrecisionName)
IMAGES, MINIBATCHES, JUDGED = 256, 4, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data, as for narfx train")
    parser.add_argument("--out", type=Path, required=True, help="the folder that keeps everything")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of each search")
    parser.add_argument("--trainings", type=int, default=2, help="seeds of the trainings of a vector that was found")
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    given = parser.parse_args()
    options = Options(
        data=str(given.data.resolve()), out=str(given.out.resolve()), input=(1, 14, 14), images=0.08,
        model="narfx:resnet_cifar?depth=8&width=8&in_channels=1", scratch_epochs=8, base_epochs=3, search_epochs=3,
        seeds=2, device="cpu",
    )  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    check_same(given.out / "options.json", asdict(options))
    torch.set_num_threads(1)
    train_base(options)
    for name in given.searches:
        print(searched(options, name, given.seeds, given.trainings), flush=True)
    for name in given.searches:
        print(agreement(options, name), flush=True)
    print(alone(options, 2 * given.seeds), flush=True)


def searched(options: Options, name: str, seeds: int, trainings: int) -> str:
    """The vectors that a search finds in both formats, trained on from the base; a row in Markdown."""
    found = {key: [search(options, *SEARCHES[name], seed, key) for seed in range(seeds)] for key in FORMATS}
    accuracies = {
        key: [trained(options, one["vector"], trainings) for one in searches] for key, searches in found.items()
    }
    pairs = list(zip(*found.values(), strict=True))
    same = sum(one["vector"] == other["vector"] for one, other in pairs)
    gains = [other - one for one, other in zip(*accuracies.values(), strict=True)]
    times = statistics.median(other["seconds"] / one["seconds"] for one, other in pairs)
    columns = " | ".join(mean(values) for values in (*accuracies.values(), gains))
    return f"| {name} | {columns} | {same} of {seeds} | {times:.2f} |"


def trained(options: Options, vector: Sequence[int], trainings: int) -> float:
    """The test accuracy of a vector in percent, trained on from the base in float32; the mean over seeds."""
    jobs = [("truth", "base", str(seed), json.dumps(list(vector))) for seed in range(trainings)]
    files = [Path(options.out) / "truth" / f"{work(options, job)}.json" for job in jobs]
    return 100 * statistics.fmean(read_json(path)["accuracy"] for path in files)


def alone(options: Options, seeds: int) -> str:
    """The base trained from scratch in both formats, the test accuracy in float32; a row in Markdown."""
    found: dict[str, list[float]] = {}
    for key, seed in itertools.product(FORMATS, range(seeds)):
        path = Path(options.out) / "alone" / f"{key}-{seed}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            network = lower(Supernet(opened(options, None)), space_of(options).base)
            reinitialise(network, seed)
            task = in_format(task_of(options), key)
            write_json(path, fit(network, task, recipe(options.scratch_epochs), seed=seed))
        found.setdefault(key, []).append(100 * read_json(path)["test"]["accuracy"])
    gains = [other - one for one, other in zip(*found.values(), strict=True)]
    return f"| base from scratch, {seeds} seeds | {' | '.join(mean(values) for values in (*found.values(), gains))} |"


def agreement(options: Options, name: str) -> str:
    """Kendall's tau over all vectors, on the shared weights that the search in float32 left; a row in Markdown."""
    net = Supernet(opened(options, base_weights(options)))
    run = Path(search(options, *SEARCHES[name], 0)["run"])
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)["state"]["net"]
    net.load_state_dict(state)
    tasks = {key: in_format(task_of(options), key) for key in FORMATS}
    tasks["fp32"].precision.arrange(net)
    batches, every = list(tasks["fp32"].reward_batches(0, MINIBATCHES, IMAGES)), vectors(options)
    rewards = {
        key: [quick_rewards(Prefixes(net), every, task, batch) for batch in batches] for key, task in tasks.items()
    }
    losses = {
        key: [judged.loss for judged in NetJudge(Prefixes(net), task, JUDGED, Silent())(every, "")]
        for key, task in tasks.items()
    }
    formats = [tau(one, other) for one, other in zip(*rewards.values(), strict=True)]
    minibatches = [tau(*pair) for pair in itertools.combinations(rewards["fp32"], 2)]
    flat = [list(itertools.chain(*rewards[key])) for key in FORMATS]
    apart = statistics.fmean(abs(one - other) for one, other in zip(*flat, strict=True))
    return (
        f"| {name} | {statistics.fmean(formats):.3f} | {statistics.fmean(minibatches):.3f} | {100 * apart:.2f} | "
        f"{tau(*losses.values()):.3f} |"
    )


def in_format(task: Task, name: PrecisionName) -> Task:
    """The same task in this format."""
    own = copy.copy(task)
    own.precision = Precision(name)
    return own


def tau(one: Sequence[float], other: Sequence[float]) -> float:
    return float(kendalltau(one, other).statistic)


def mean(values: Sequence[Any]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()
