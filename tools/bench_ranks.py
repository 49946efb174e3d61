"""Images per second of two ranks against one, in shared-weight steps and in rewards: ratios measured in one group.

    torchrun --standalone --nproc-per-node 2 tools/bench_ranks.py

Both processes have one thread. In each round rank 0 does the work alone while the other waits, then both share it, in
turn first; the ratio is that of the two times, for the same images. A step is one minibatch of the supernet: alone one
vector on all its images, with ranks one vector each on its share, gradients averaged. A reward is one proposal on a
minibatch: with ranks each evaluates its share of the proposals. The table gives the median over rounds and the
quartiles. Another load on the machine lowers the ratio, because two processes need two free cores. So a second ratio is
that of processor times: of rank 0 alone, over that of the rank which needs more. It is what free cores would give if
messages took no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from narfx.cli.console import parse_input
from narfx.runs.progress import Silent
from narfx.search.config import SearchConfig
from narfx.search.epochs import rewards_of_ranks
from narfx.search.prepared import Prepared, prepare
from narfx.search.shared_weights import SharedWeights
from narfx.search.stages import stages_of
from narfx.space.sampling import FeasibleSampler
from narfx.support.collectives import equalise, gather
from narfx.support.joining import joined
from narfx.support.ranks import Ranks
from narfx.support.seeds import numpy_generator

IMAGES = 512


def ready(options: argparse.Namespace, folder: str) -> tuple[Prepared, SearchConfig]:
    """A supernet and random images."""
    shape = parse_input(options.input)
    assert shape is not None
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * IMAGES, *shape[1:], shape[0]), dtype=np.uint8)
    labels = np.arange(2 * IMAGES) % 10
    file = Path(folder) / "images.npz"
    np.savez(file, x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])
    config = SearchConfig(
        model=options.model, input=shape, data=str(file), init="scratch", strategy="random", batch_size=options.batch,
        budget="none", val_fraction=0.4, reward_images=options.batch,
    )  # fmt: skip
    return prepare(config, stages_of(config), "cpu", None), config


def work_of(prepared: Prepared, config: SearchConfig, proposals: int, ranks: Ranks) -> dict[str, Callable[[], object]]:
    """The two kinds of work, for these ranks."""
    shared = SharedWeights(prepared.net, prepared.task, config, Silent(), ranks, prepared.method)
    sampler, rng = FeasibleSampler(prepared.space), numpy_generator(0, "vectors", ranks.rank)
    drawn = [FeasibleSampler(prepared.space).draw(numpy_generator(1, number)) for number in range(proposals)]
    images = next(prepared.task.train_batches(0, ranks))
    minibatch = next(prepared.task.reward_batches(0, 1, config.reward_images))
    prepared.net.train()

    def step() -> object:
        prepared.net.set_vector(sampler.draw(rng))
        return shared.step(images, 0.0)

    def rewards() -> object:
        return rewards_of_ranks(shared.prefixes, drawn, prepared.task, minibatch, ranks)

    return {"shared-weight step": step, f"{proposals} rewards": rewards}


def seconds(call: Callable[[], object], times: int) -> tuple[float, float]:
    """Of so many calls: the clock's and the processor's."""
    began, used = time.perf_counter(), time.process_time()
    for _ in range(times):
        call()
    return time.perf_counter() - began, time.process_time() - used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="narfx:resnet20")
    parser.add_argument("--input", default="3,32,32")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--proposals", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--times", type=int, default=2, help="calls of a kind in a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with joined("cpu") as ranks, tempfile.TemporaryDirectory() as folder:
        prepared, config = ready(options, folder)
        equalise(ranks, prepared.net, prepared.task.head)
        alone = work_of(prepared, config, options.proposals, Ranks())
        together = work_of(prepared, config, options.proposals, ranks)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in alone}
        for name in alone:
            for number in range(options.rounds + 1):
                times: dict[str, tuple[float, float]] = {}
                for kind in ("alone", "together") if number % 2 else ("together", "alone"):
                    gather(ranks, 0)
                    if kind == "together":
                        times[kind] = seconds(together[name], options.times)
                    elif ranks.first:
                        times[kind] = seconds(alone[name], options.times)
                    processor = max(gather(ranks, times.get(kind, (0.0, 0.0))[1]))
                    times[kind] = times.get(kind, (0.0, 0.0))[0], processor
                    equalise(ranks, prepared.net, prepared.task.head)
                if number and ranks.first:  # the first round warms up
                    clock, processor = (times["alone"][i] / times["together"][i] for i in range(2))
                    found[name].append((clock, processor))
        if ranks.first:
            _print(found, ranks, options)


def _print(found: dict[str, list[tuple[float, float]]], ranks: Ranks, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(found))
        return
    table = Table(f"{options.model}, {options.batch} images", box=box.MARKDOWN)
    table.add_column(f"images/s, {ranks.size} ranks against 1", justify="right")
    table.add_column("by processor time", justify="right")
    for name, ratios in found.items():
        cells = []
        for kind in zip(*ratios, strict=True):
            low, median, high = statistics.quantiles(kind, n=4)
            cells.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
        table.add_row(name, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
