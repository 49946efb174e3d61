"""Batches of proposals of other sizes on a trained supernet, for the same number of rewards.

    OMP_NUM_THREADS=1 python tools/lot_race.py --data cifar10.npz

For each seed uniform random vectors train a supernet on a part of the training images. Its weights then stay as they
are, and a strategy learns from so many rewards in batches of each size; all vectors of a batch see one minibatch. What
it then proposes and its first finalist are evaluated on test images with BatchNorm recalibrated. The time is that of
the rewards and of the strategy, by the processor, with common beginnings computed once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from narfx.compiler.prefixes import Prefixes
from narfx.runs.folder import RunFolder
from narfx.runs.progress import ConsoleProgress, Silent
from narfx.search import Result, SearchConfig, Strategy, make_strategy
from narfx.search.effort import Effort
from narfx.search.epochs import quick_rewards
from narfx.search.evaluations import Evaluator
from narfx.search.judgement import RIGHT, unpacked
from narfx.search.loop import Search
from narfx.search.prepared import Prepared, prepare
from narfx.search.stages import stages_of
from narfx.space.records import Vector

SIZES = (5, 10, 25)
_TEST, _PROPOSED = 2000, 12


def trained(options: argparse.Namespace, seed: int, folder: Path) -> Prepared:
    """A supernet trained on uniform random vectors."""
    config = SearchConfig(
        model=options.model, data=options.data, data_fraction=options.fraction, strategy="random", init="scratch",
        epochs=options.epochs + 1, pretrain_epochs=options.epochs, steps=1, augment="none", seed=seed,
    )  # fmt: skip
    found = prepare(config, stages_of(config), "cpu", None)
    run = RunFolder(folder / str(seed))
    run.path.mkdir()
    with run:
        Search(config, found.space, found.net, found.stages, found.task, run, Silent()).run()
    return found


def learned(found: Prepared, strategy: Strategy, size: int, rewards: int, images: int, seed: int) -> float:
    """Let a strategy learn from so many rewards; returns the processor time."""
    start, prefixes = time.process_time(), Prefixes(found.net)
    for batch in found.task.reward_batches(seed, rewards // size, images):
        proposals = strategy.ask(size)
        values = quick_rewards(prefixes, [proposal.vector for proposal in proposals], found.task, batch)
        strategy.tell(proposals, [Result(value) for value in values])
    return time.process_time() - start


def accuracies(evaluator: Evaluator, vectors: list[Vector]) -> list[float]:
    """In percent of the test images, each distinct vector evaluated once."""
    distinct = sorted(set(vectors))
    records = evaluator(distinct, ["test"])
    known = {v: 100 * float(unpacked(r[RIGHT], _TEST).mean()) for v, r in zip(distinct, records, strict=True)}
    return [known[vector] for vector in vectors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 with a test part")
    parser.add_argument("--model", default="narfx:resnet_cifar?depth=8&width=8", help="the base [%(default)s]")
    parser.add_argument("--fraction", type=float, default=0.1, help="the part of the training images [%(default)s]")
    parser.add_argument("--epochs", type=int, default=8, help="of the supernet [%(default)s]")
    parser.add_argument("--strategy", default="nar", help="[%(default)s]")
    parser.add_argument("--rewards", type=int, default=750, help="of each search [%(default)s]")
    parser.add_argument("--images", type=int, default=128, help="validation images of a reward [%(default)s]")
    parser.add_argument("--seeds", type=int, default=4, help="supernets [%(default)s]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[int, list[tuple[float, ...]]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            found = trained(options, seed, Path(folder))
            evaluator, seconds = Evaluator(found.net, found.task, Effort(512, 0, _TEST)), dict[int, float]()
            for size in SIZES:
                strategy = make_strategy(options.strategy, found.space, seed=seed)
                seconds[size] = learned(found, strategy, size, options.rewards, options.images, seed)
                proposed = [proposal.vector for proposal in strategy.ask(_PROPOSED)]
                values = accuracies(evaluator, [*proposed, *strategy.finalists(5)])
                proposals, finalists = values[:_PROPOSED], values[_PROPOSED:]
                ratio = seconds[size] / seconds[SIZES[0]]
                rows[size].append((float(np.mean(proposals)), finalists[0], max(finalists), ratio))
                ConsoleProgress().say(f"seed {seed}, batches of {size}: {rows[size][-1]}")
    print("| batches of | proposed at the end | first finalist | best of 5 | processor time |")
    for size, found_rows in rows.items():
        cells = (
            f"{statistics.fmean(column):.2f} ± {statistics.stdev(column) / len(column) ** 0.5:.2f}"
            for column in zip(*found_rows, strict=True)
        )
        print(f"| {size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
