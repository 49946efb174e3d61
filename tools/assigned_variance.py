"""How the variance of NAR's assigned rewards over seeds falls as a step evaluates more samples.

NAR (arXiv 1905.02341, equation 6) assigns to operator k of slot j the reward R[j, k] = (1/N) Σᵢ Oⁱ[j, k] · Rⁱ, and
claims that it varies less with more samples N. Here the shared weights of a small supernet are trained once. Then, for
each seed, N vectors are drawn uniformly and evaluated on one validation minibatch, as in a step of a search; all N of
a seed see the same minibatch. The variance over the seeds is that of one choice's assigned reward, mean over choices.
REINFORCE uses R − b in place of R, where b is a baseline: here the mean reward of all vectors.

    OMP_NUM_THREADS=1 python tools/assigned_variance.py

What all samples of a step have in common, the minibatch, does not average out: ``one minibatch`` repeats the
measurement with the same minibatch for all seeds, and only the draw of the vectors differs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from narfx.cli.console import parse_input
from narfx.data.image_data import Batch
from narfx.runs.progress import Silent
from narfx.search.assigned_rewards import Floats, assigned_by_choice
from narfx.search.config import SearchConfig
from narfx.search.epochs import quick_reward
from narfx.search.preparation import WarmUp
from narfx.search.prepared import Prepared, prepare
from narfx.search.shared_weights import SharedWeights
from narfx.search.stages import stages_of
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace
from narfx.support.ranks import Ranks
from narfx.support.seeds import derive, numpy_generator

SAMPLES = (1, 2, 5, 10, 20, 50)


def variances(
    space: SearchSpace, vectors: Sequence[Sequence[Vector]], rewards: Floats, samples: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """By N: the variance of R and of R − b over the seeds, whose first N ``vectors`` and ``rewards`` count."""
    baseline, found = float(rewards.mean()), {}
    for n in samples:
        both = []
        for less in (0.0, baseline):
            assigned = np.stack(
                [
                    assigned_by_choice(space, drawn[:n], (earned[:n] - less).tolist())
                    for drawn, earned in zip(vectors, rewards, strict=True)
                ]
            )
            both.append(float(assigned.var(0, ddof=1).mean()))
        found[n] = both[0], both[1]
    return found


def measured(prepared: Prepared, vectors: Sequence[Sequence[Vector]], batches: Sequence[Batch]) -> Floats:
    """The rewards (seeds, samples), each row on its own minibatch."""
    return np.array(
        [
            [quick_reward(prepared.net, vector, prepared.task, batch) for vector in drawn]
            for drawn, batch in zip(vectors, batches, strict=True)
        ]
    )


def main() -> None:
    """Train, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="narfx:resnet8?in_channels=1")
    parser.add_argument("--input", default="1,8,8")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = SearchConfig(
        model=options.model, input=parse_input(options.input), data=options.data, init="scratch",
        strategy="nar", epochs=options.epochs + 1, pretrain_epochs=options.epochs, budget="none", batch_size=64,
        val_fraction=0.3, reward_images=128, seed=options.seed,
    )  # fmt: skip
    prepared = prepare(config, stages_of(config), "cpu", None)
    shared = SharedWeights(prepared.net, prepared.task, config, Silent(), Ranks(), prepared.method)
    prepared.task.start(config.seed)
    for number in range(options.epochs):
        WarmUp(options.epochs).train(number, number, prepared.space, shared)
    sampler, most = FeasibleSampler(prepared.space), max(options.samples)
    vectors = [
        [sampler.draw(rng) for _ in range(most)]
        for rng in (numpy_generator(options.seed, "vectors", seed) for seed in range(options.seeds))
    ]
    minibatches = [
        next(prepared.task.reward_batches(derive(options.seed, "reward", seed), 1, config.reward_images))
        for seed in range(options.seeds)
    ]
    kinds = {"its own minibatch": minibatches, "one minibatch": [minibatches[0]] * options.seeds}
    rewards = {name: measured(prepared, vectors, batches) for name, batches in kinds.items()}
    found = {name: variances(prepared.space, vectors, each, options.samples) for name, each in rewards.items()}
    if options.json:
        print(json.dumps({name: {str(n): values for n, values in rows.items()} for name, rows in found.items()}))
        return
    spread = {name: f"mean {each.mean():.3f}, standard deviation {each.std():.3f}" for name, each in rewards.items()}
    console = Console(width=120)
    console.print(f"{options.seeds} seeds, {len(prepared.space)} slots; rewards: {spread['its own minibatch']}")
    table = Table("samples N", box=box.MARKDOWN)
    for name in found:
        for what in ("R", "R - b"):
            table.add_column(f"variance of {what}, {name}", justify="right")
            table.add_column("times N, of N = 1", justify="right")
    for n in options.samples:
        row = [str(n)]
        for name in found:
            for index in range(2):
                first = found[name][options.samples[0]][index] * options.samples[0]
                row += [f"{found[name][n][index]:.3g}", f"{found[name][n][index] * n / first:.2f}"]
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
