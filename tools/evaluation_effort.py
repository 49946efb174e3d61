"""What images and finalists are worth in the evaluations at the end of a search.

    OMP_NUM_THREADS=1 python tools/evaluation_effort.py --data cifar10.npz

For each seed a short search by ``nar`` trains a supernet on a part of the training images. Its first finalists and
random vectors within the budget are evaluated with BatchNorm recalibrated on more and more images. Half of the test
images choose, the other half judge:

- calibration: Kendall's tau of accuracies with those at the most calibration images, on the same images;
- images: tau of accuracies on some images with those on the other half;
- finalists: the accuracy on the other half of the best of the first k finalists, less that of the first one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from narfx.runs.folder import RunFolder
from narfx.runs.progress import ConsoleProgress, Silent
from narfx.search.config import SearchConfig
from narfx.search.effort import Effort
from narfx.search.evaluations import Evaluator
from narfx.search.judgement import RIGHT, unpacked
from narfx.search.loop import Search
from narfx.search.prepared import prepare
from narfx.search.stages import stages_of
from narfx.space.sampling import FeasibleSampler
from narfx.support.seeds import numpy_generator

CALIBRATION = (128, 256, 512, 1024, 2048, 4096)
IMAGES = (128, 256, 512, 1024)
FINALISTS = (1, 2, 3, 5, 8, 12)

Rights = NDArray[np.bool_]  # (calibration sizes, vectors, images)


def searched(options: argparse.Namespace, seed: int, folder: Path) -> tuple[Rights, Rights]:
    """Which test images the finalists and random vectors of one search classify right."""
    config = SearchConfig(
        model=options.model, data=options.data, data_fraction=options.fraction, strategy="nar", init="scratch",
        epochs=options.epochs, pretrain_epochs=options.epochs // 2, steps=20, augment="none", seed=seed,
    )  # fmt: skip
    prepared = prepare(config, stages_of(config), "cpu", None)
    run = RunFolder(folder / str(seed))
    run.path.mkdir()
    search = Search(config, prepared.space, prepared.net, prepared.stages, prepared.task, run, Silent())
    with run:
        search.run()
    rng, sampler = numpy_generator(seed, "random vectors"), FeasibleSampler(prepared.space)
    finalists = search.strategy.finalists(options.vectors)
    vectors = [*finalists, *(sampler.draw(rng) for _ in range(options.vectors))]
    images, found = 2 * max(IMAGES), []
    for size in CALIBRATION:
        evaluator = Evaluator(prepared.net, prepared.task, Effort(size, 0, images))
        records = evaluator(vectors, ["test"])
        found.append([unpacked(record[RIGHT], images) for record in records])
        ConsoleProgress().say(f"seed {seed}: {len(vectors)} vectors with {size} calibration images")
    rights = np.array(found)
    return rights[:, : len(finalists)], rights[:, len(finalists) :]


def measured(rights: Rights) -> dict[str, list[float]]:
    """Tau of one group of vectors by the calibration images, and by the images that choose."""
    half = rights.shape[2] // 2
    choosing, judging = rights[:, :, :half].mean(2), rights[-1, :, half:].mean(1)
    return {
        "calibration": [_tau(row, choosing[-1]) for row in choosing],
        "calibration, judged": [_tau(row, judging) for row in choosing],
        "images": [_tau(rights[-1, :, :n].mean(1), judging) for n in IMAGES],
    }


def gained(finalists: Rights) -> list[float]:
    """By the number of finalists: what the best of them has more than the first, on images that did not choose."""
    half = finalists.shape[2] // 2
    choosing, judging = finalists[-1, :, :half].mean(1), finalists[-1, :, half:].mean(1)
    return [float(judging[int(choosing[:k].argmax())] - judging[0]) for k in FINALISTS]


def _tau(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.nan_to_num(kendalltau(one, other).statistic))


def means(rows: list[list[float]]) -> list[tuple[float, float]]:
    """Mean and standard error over seeds."""
    columns = list(zip(*rows, strict=True))
    error = len(rows) ** 0.5
    return [(statistics.fmean(c), statistics.stdev(c) / error if len(c) > 1 else 0.0) for c in columns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 with a test part of at least 4,096 images")
    parser.add_argument("--model", default="narfx:resnet_cifar?depth=8&width=8", help="the base [%(default)s]")
    parser.add_argument("--fraction", type=float, default=0.12, help="the part of the training images [%(default)s]")
    parser.add_argument("--epochs", type=int, default=8, help="of each search [%(default)s]")
    parser.add_argument("--vectors", type=int, default=12, help="finalists, and random vectors [%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="searches [%(default)s]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            finalists, random = searched(options, seed, Path(folder))
            rows = {"finalists: gain": gained(finalists)}
            rows |= {f"finalists: tau by {key}": row for key, row in measured(finalists).items()}
            found.append(rows | {f"random: tau by {key}": row for key, row in measured(random).items()})
            print(json.dumps(found[-1]), flush=True)
    print(f"calibration images {CALIBRATION}, images that choose {IMAGES}, finalists {FINALISTS}")
    for key in found[0]:
        cells = (f"{mean:.3f} ± {error:.3f}" for mean, error in means([each[key] for each in found]))
        print(f"| {key} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
