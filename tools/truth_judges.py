"""The judges of ``ground_truth.py``: whole searches, and supernets that only a preparation trains."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from truth_space import (
    BUDGET,
    VALIDATION,
    Options,
    base_weights,
    narrowed,
    opened,
    space_of,
    task_of,
    vectors,
)

from narfx.compiler.prefixes import Prefixes
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import batch_statistics
from narfx.runs.progress import Silent
from narfx.search import SearchConfig, Stage, run
from narfx.search.judge import NetJudge
from narfx.search.preparation import NO_PREPARATION, Distil, WarmUp
from narfx.search.prepared import prepare
from narfx.search.shared_weights import SharedWeights
from narfx.space.scores import ScoreTable
from narfx.support.ranks import Ranks

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
    judge = NetJudge(Prefixes(ready.net), ready.task, config.score_images, Silent())
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
