"""Does a fair warm-up of the shared weights make them a better judge? Three ways to draw the vectors, by a known truth.

    python tools/ground_truth.py --data fashion_mnist.npz --out runs/truth --only truths
    python tools/fair_warm_up.py --data fashion_mnist.npz --out runs/truth

``uniform`` is what narfx does: one vector a minibatch, drawn uniformly. ``balanced`` draws each operator of a slot once
in every four minibatches. ``fair`` is FairNAS's strict fairness (Chu et al., arXiv 1907.01845): each minibatch is seen
by four vectors that together use each operator of a slot once, and their gradients make one step; eight of its epochs
take as long as 30 of the others. Kendall's tau of the accuracy on shared weights with the truth, over all vectors and
at equal cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from truth_judges import accuracies
from truth_page import equal_cost, load_truth
from truth_space import TRUTHS, VALIDATION, Options, base_weights, narrowed, space_of, vectors

from narfx.runs.progress import Silent
from narfx.search import SearchConfig, Stage
from narfx.search.preparation import WarmUp
from narfx.search.prepared import prepare
from narfx.search.shared_weights import SharedWeights
from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.support.files import read_json
from narfx.support.ranks import Ranks
from narfx.training.method import set_rate

LENGTHS = (("uniform", 30), ("balanced", 30), ("fair", 8), ("fair", 30), ("uniform", 90))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data of the truth")
    parser.add_argument("--out", type=Path, required=True, help="the folder of tools/ground_truth.py")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each warm-up")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kept = read_json(given.out / "options.json")
    options = Options(
        **{**kept, "input": tuple(kept["input"]), "data": str(given.data.resolve()), "out": str(given.out.resolve())}
    )
    space = space_of(options)
    macs = np.array([space.cost(vector)["macs"] for vector in vectors(options)])
    truth = {kind: np.mean(load_truth(options, kind), axis=0) for kind in TRUTHS}
    print("| from | draws | epochs | seed | truth from scratch, equal cost | truth from the base, equal cost |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for init in ("scratch", "base"):
        for draws, epochs in LENGTHS:
            for seed in range(given.seeds):
                shared = warmed(options, space, init, draws, epochs, seed)
                found = accuracies(shared.net, options)
                cells = [
                    f"{kendalltau(found, truth[kind]).statistic:.2f}, {equal_cost(found, truth[kind], macs):.2f}"
                    for kind in TRUTHS
                ]
                print(f"| {init} | {draws} | {epochs} | {seed} | {' | '.join(cells)} |", flush=True)


def warmed(options: Options, space: SearchSpace, init: str, draws: str, epochs: int, seed: int) -> SharedWeights:
    """Shared weights after a warm-up alone; the learning rate falls as in a search of one epoch more."""
    scratch = init == "scratch"
    config = SearchConfig(
        model=options.model, input=options.input, data=options.data, data_fraction=options.images,
        val_fraction=VALIDATION, budget="none", init="scratch" if scratch else "base", strategy="random", seed=seed,
        weights=None if scratch else base_weights(options), epochs=epochs + 1, pretrain_epochs=epochs,
    )  # fmt: skip
    ready = prepare(config, [Stage(narrowed, WarmUp(epochs), "random", 1)], options.device, None)
    shared = SharedWeights(ready.net, ready.task, config, Silent(), Ranks(), ready.method)
    rng = np.random.default_rng(seed)
    drawn = uniform(space, rng) if draws == "uniform" else groups(space, rng)
    for number in range(epochs):
        if draws == "fair":
            train_fair(shared, number, drawn, max(len(slot.legal) for slot in space.slots))
        else:
            shared.epoch(number).train(drawn)
    return shared


def uniform(space: SearchSpace, rng: np.random.Generator) -> Iterator[Vector]:
    while True:
        yield tuple(int(rng.choice(slot.legal)) for slot in space.slots)


def groups(space: SearchSpace, rng: np.random.Generator) -> Iterator[Vector]:
    """Vectors of which every four use each operator of a slot once."""
    size = max(len(slot.legal) for slot in space.slots)
    while True:
        columns = [np.resize(rng.permutation(slot.legal), size) for slot in space.slots]
        yield from (tuple(int(column[index]) for column in columns) for index in range(size))


def train_fair(shared: SharedWeights, number: int, drawn: Iterator[Vector], size: int) -> None:
    """One epoch in which the gradients of ``size`` vectors on a minibatch make one step."""
    parameters = [parameter for group in shared.optimizer.param_groups for parameter in group["params"]]
    for (images, labels), time in shared.epoch(number).take(shared.task.steps_per_epoch, "fair warm-up"):
        set_rate(shared.optimizer, shared.method.rate(time))
        shared.optimizer.zero_grad()
        for _ in range(size):
            shared.net.set_vector(next(drawn))
            shared.task.objective(shared.net, images, labels).backward()
        torch.nn.utils.clip_grad_norm_(parameters, shared.config.clip)
        shared.optimizer.step()


if __name__ == "__main__":
    main()
