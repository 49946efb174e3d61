"""How well each judge ranks architectures, compared with the truth: every vector of a small space, trained alone.

Two truths: ``scratch`` trains each network from random weights, ``base`` trains it on from the base's weights, which
is what a user with weights gets. Against each, Kendall's tau of the judges that narfx has, over all vectors and at
equal cost, and the regret of the strategies. Use it to tune a strategy, together with the tables of known rewards
(``strategy_tables.py``). The output folder keeps everything, and a second call continues from there.

    python tools/ground_truth.py --data fashion_mnist.npz --out runs/truth --jobs 2 --page docs/ground_truth.md

At equal cost: a parabola in MACs is fitted to the truth and to the judge and subtracted, since a budget fixes the
cost. The space has four slots of four operators, 256 vectors: the slots of a ResNet-8 that are not named in ``FREE``
keep the base.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from truth_judges import PREPARED, SEARCHES, prepared, searched
from truth_page import page, tables
from truth_space import (
    TRUTHS,
    Options,
    base_weights,
    opened,
    space_of,
    task_of,
    vectors,
)

from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.inputs.weights import write_weights
from narfx.space.records import Vector
from narfx.support.files import read_json, write_json, write_text
from narfx.support.seeds import derive
from narfx.training.fit import fit
from narfx.training.initialise import reinitialise
from narfx.training.recipe import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the data, as for narfx train")
    parser.add_argument("--out", required=True, help="the folder that keeps everything")
    parser.add_argument("--page", type=Path, help="a Markdown page that gets the tables")
    parser.add_argument("--model", default="narfx:resnet_cifar?depth=8&width=8&in_channels=1", help="the base")
    parser.add_argument("--input", default="1,14,14", help="the shape of one image")
    parser.add_argument("--images", type=float, default=0.08, help="share of the training images")
    parser.add_argument("--scratch-epochs", type=int, default=8, help="epochs of a network from scratch")
    parser.add_argument("--base-epochs", type=int, default=3, help="epochs of a network from the base's weights")
    parser.add_argument("--search-epochs", type=int, default=30, help="epochs of each search that learns from rewards")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of every training and search")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
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
        sys.exit(f"{path.parent} was started with other options ({path}): choose another --out")
    write_json(path, values)


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


if __name__ == "__main__":
    main()
