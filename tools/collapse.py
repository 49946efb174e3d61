"""Does a search by gradients collapse to skips? DARTS and StacNAS on the spaces S2 and S3 of Zela et al. (1909.09656).

On the same images, cells and steps: the share of ``skip_connect`` in the normal cell while the search goes on, and the
accuracy of the genotypes found, trained alone, beside random genotypes of the same space trained alike. In S2 and S3
each group of StacNAS has one operator, so that its first stage is the whole search.

    OMP_NUM_THREADS=1 python tools/collapse.py --data cifar10.npz --out runs/collapse

DARTS learns its architecture from half of the images. StacNAS trains on all but a tenth, which only chooses among the
finalists, for as many steps as DARTS. What is finished is kept, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from narfx.models.cell_operators import OPERATOR_SETS
from narfx.runs.events import Step, iter_events
from narfx.runs.folder import RunFolder
from narfx.runs.progress import ConsoleProgress
from narfx.search import SearchConfig
from narfx.search.loop import Search
from narfx.search.prepared import prepare
from narfx.search.progress import EpochLines
from narfx.search.stages import stages_of
from narfx.space.genotype import Edge, Genotype, derive_genotype
from narfx.space.space import SearchSpace
from narfx.support.files import read_json, write_json, write_text
from narfx.support.seeds import numpy_generator
from narfx.verbs.train import TrainConfig, resume_train, train

SKIP, NODES = "skip_connect", 4
PARTS = (0.25, 0.5, 0.75, 1.0)
"""The shares of a search after which the normal cell is looked at."""


Recorded = tuple[Genotype, dict[str, float]]
"""The genotype by the architecture weights, and the mean probability of each operator."""


@dataclass(frozen=True)
class Options:
    """What decides the numbers; a folder holds those of one set of options."""

    data: str
    images: int
    cells: int
    channels: int
    epochs: int
    train_epochs: int
    architecture_lr: float
    batch: int
    randoms: int
    model: str
    augment: str

    def common(self) -> dict[str, Any]:
        """What searches and trainings share."""
        own = {"augment": self.augment} if self.augment else {}
        return {"data": self.data, "max_train_images": self.images, "batch_size": self.batch, **own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an .npz file with x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000, help="training images in all [4000]")
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30, help="epochs of DARTS, each over half of the images [30]")
    parser.add_argument("--train-epochs", type=int, default=15, help="epochs of a training alone [15]")
    parser.add_argument("--architecture-lr", type=float, default=3e-3, help="Adam's for the architecture [0.003]")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--randoms", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--spaces", default="s2,s3")
    parser.add_argument("--model", default="", help="more options of the networks, such as in_channels=1")
    parser.add_argument("--augment", default="", help="none, to learn the images by heart [what suits the data]")
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = Options(
        str(given.data.resolve()), given.images, given.cells, given.channels, given.epochs, given.train_epochs,
        given.architecture_lr, given.batch, given.randoms, given.model, given.augment,
    )  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    keep = given.out / "options.json"
    if keep.exists() and read_json(keep) != vars(options):
        parser.error(f"{given.out} has numbers of other options: name another folder")
    write_json(keep, dict(vars(options)))
    heads = ["space", "strategy", *(f"skips, share after {part:.0%}" for part in PARTS), "p(none)", "test accuracy"]
    lines = [_row(*heads), _row(*["---"] * len(heads))]
    for name in given.spaces.split(","):
        lines += table(options, name, given.seeds, given.out / name)
    text = "\n".join(lines) + "\n"
    write_text(given.out / "collapse.md", text)
    print(text)


def table(options: Options, space: str, seeds: int, out: Path) -> list[str]:
    """The rows of one space: skips among the eight edges of the normal cell, and their share of the probability.

    The share is that of a skip among the operators other than ``none``, which no genotype keeps.
    """
    rows = []
    for strategy in ("darts", "stacnas"):
        found, accuracies = list[list[Recorded]](), list[float]()
        for seed in range(seeds):
            history = searched(options, space, strategy, seed, out / f"{strategy}-{seed}")
            found.append([history[max(math.ceil(part * len(history)) - 1, 0)] for part in PARTS])
            accuracies.append(trained(options, found[-1][-1][0], seed, out / f"{strategy}-{seed}-alone"))
        by_part = [
            f"{_mean([skips(genotype) for genotype, _ in at])}, {_mean([share(means) for _, means in at], 3)}"
            for at in zip(*found, strict=True)
        ]
        none = [parts[-1][1].get("none", 0.0) for parts in found]
        rows.append(_row(space, strategy, *by_part, _mean(none), _mean(accuracies, 4)))
    drawn = [random_genotype(space, index) for index in range(options.randoms)]
    alone = [
        trained(options, genotype, index % seeds, out / f"random-{index}") for index, genotype in enumerate(drawn)
    ]  # fmt: skip
    rows.append(_row(space, f"{len(drawn)} random", "", "", "", _mean([*map(skips, drawn)]), "", _mean(alone, 4)))
    return rows


def searched(options: Options, space: str, strategy: str, seed: int, out: Path) -> list[Recorded]:
    """What each record of a search says.

    A search goes on where it stopped. The vectors that it evaluates at its end are of no use here: it is left before.
    """
    known = out / "genotypes.json"
    if not known.exists():
        darts = strategy == "darts"
        # As many steps for both: an epoch of DARTS has half of the images, one of StacNAS nine tenths.
        epochs = options.epochs if darts else max(round(options.epochs * 0.5 / 0.9), 1)
        config = SearchConfig(
            model=_model("darts_search", options, f"operators={space}"),
            strategy=strategy,
            strategy_options={"lr": options.architecture_lr, **({} if darts else {"stages": 1})},
            init="scratch",
            budget="none",
            val_fraction=0.5 if darts else 0.1,
            epochs=epochs,
            t0=epochs,
            lr=0.025,
            lr_min=0.001,
            weight_decay=3e-4,
            seed=seed,
            **options.common(),
        )
        ready = prepare(config, stages_of(config), "auto", None)
        began = (out / "config.json").exists()
        folder = RunFolder.open(out) if began else RunFolder.create(out, config.model_dump(mode="json"))
        reporter = ConsoleProgress()
        folder.subscribe(EpochLines(reporter, ready.stages))
        with folder:
            Search(
                config, ready.space, ready.net, ready.stages, ready.task, folder, reporter, method=ready.method
            ).run()
        key = "probabilities" if darts else "alphas"
        made = [
            {
                "genotype": derive_genotype(ready.space, step.more[key]).to_json(),
                "means": mean_probabilities(ready.space, step.more["probabilities"]),
            }
            for step in iter_events(out, Step)
        ]
        write_json(known, made)
    return [(Genotype.model_validate(entry["genotype"]), entry["means"]) for entry in read_json(known)]


def mean_probabilities(space: SearchSpace, probabilities: Sequence[Sequence[float]]) -> dict[str, float]:
    """The mean probability of each operator over the edges of the normal cell."""
    rows = [
        dict(zip(slot.choices, row, strict=True))
        for slot, row in zip(space.slots, probabilities, strict=True)
        if slot.name.startswith("normal ")
    ]
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}


def share(means: dict[str, float]) -> float:
    """The share of a skip in the probability of all operators other than none."""
    return means[SKIP] / (1 - means.get("none", 0.0))


def skips(genotype: Genotype) -> int:
    """How many edges of the normal cell are skips."""
    return sum(operator == SKIP for operator, _ in genotype.normal)


def random_genotype(space: str, seed: int) -> Genotype:
    """Two different edges a node, and an operator other than none for each, all uniform."""
    rng = numpy_generator(seed, "collapse", space)
    offered = [name for name in OPERATOR_SETS[space] if name != "none"]

    def cell() -> tuple[Edge, ...]:
        return tuple(
            (str(rng.choice(offered)), int(source))
            for node in range(2, 2 + NODES)
            for source in sorted(rng.choice(node, 2, replace=False))
        )

    nodes = tuple(range(2, 2 + NODES))
    return Genotype(normal=cell(), normal_concat=nodes, reduce=cell(), reduce_concat=nodes)


def trained(options: Options, genotype: Genotype, seed: int, out: Path) -> float:
    """The test accuracy of a genotype's network, trained alone from scratch."""
    if not (out / "metrics.json").exists():
        if (out / "config.json").exists():
            resume_train(out)
        else:
            file = out.with_suffix(".json")
            genotype.save(file)
            config = TrainConfig(
                target=_model("darts", options, f"genotype={file}"),
                init="scratch",
                epochs=options.train_epochs,
                t0=options.train_epochs,
                lr=0.05,
                seed=seed,
                **options.common(),
            )
            train(config, out)
    return float(read_json(out / "metrics.json")["test"]["accuracy"])


def _model(name: str, options: Options, more: str) -> str:
    plain = f"narfx:{name}?{more}&cells={options.cells}&channels={options.channels}"
    return f"{plain}&{options.model}" if options.model else plain


def _mean(values: Sequence[float], digits: int = 2) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {error:.{digits}f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
