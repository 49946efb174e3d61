"""A search that ends with a front: what is on it, what its points weigh, and that nothing of it is lost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from pydantic import ValidationError
from small_search import CONFIG, Killed, same
from trained_base import solving, train_base

from narfx.compiler.lowering import lower
from narfx.errors import UsageError
from narfx.runs.events import Step, iter_events
from narfx.runs.progress import Silent
from narfx.search import (
    NO_PREPARATION,
    Proposal,
    Result,
    SearchConfig,
    Stage,
    WarmUp,
    estimate_search,
    keep_finalists,
    make_strategy,
    resume,
    run,
    strategy_names,
    whole_space,
)
from narfx.search.front import SOLVED_BUDGETS, front_vectors
from narfx.search.goals import archive_hypervolume
from narfx.search.history import History
from narfx.search.prepared import prepare
from narfx.search.stages import stages_of
from narfx.space import SearchSpace
from narfx.space.budget import Budget
from narfx.space.front import front
from narfx.space.front_file import Front
from narfx.verbs.front_points import open_front

T = TypeVar("T")
FRONT = CONFIG | {"strategy": "random", "front": "macs", "front_points": 6}


class KillInFront(Silent):
    """Breaks the run off after so many evaluations for the front."""

    def __init__(self, after: int) -> None:
        self.left = after

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        for item in items:
            if label == "front":
                if not self.left:
                    raise Killed
                self.left -= 1
            yield item


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("front") / "run"
    run(SearchConfig(**FRONT), out)
    return out


def evaluations(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "evaluations.json").read_text())["evaluations"]
    return found


def test_the_front_is_of_all_that_was_evaluated_and_nothing_beats_its_points(whole: Path) -> None:
    found = Front.load(whole / "front.json")
    config = json.loads((whole / "config.json").read_text())
    assert (config["budget"], config["front"], found.budget) == ("none", ["macs"], "none")
    assert found.costs == ("macs",) and found.archive == 30 and found.metric == "accuracy"
    expected = front(evaluations(whole), ("macs", "accuracy"))
    assert [(p.accuracy, p.costs["macs"]) for p in found.points] == sorted(
        {(record["accuracy"], record["macs"]) for record in expected}
    )
    assert all(any(record["vector"] == list(p.vector) for record in expected) for p in found.points)
    assert found.evaluated == len(evaluations(whole)) >= 6 + 1 and len(found.points) >= 2
    # The base never had weights of its own: the shared ones say what the points are compared with.
    base = next(record for record in evaluations(whole) if not any(record["vector"]))
    assert found.base_by == "shared" and found.base.accuracy == base["accuracy"]
    assert json.loads((whole / "result.json").read_text())["front"]["with_weights"] == len(found.points)


def test_the_weights_of_a_point_are_those_that_were_evaluated(whole: Path) -> None:
    opened = open_front(whole)
    config = SearchConfig(**FRONT)
    prepared = prepare(config, stages_of(config), "cpu", None)
    for number, point in enumerate(opened.front.points, 1):
        network = lower(prepared.net, point.vector).eval()
        state = opened.weights(number)
        assert state is not None
        network.load_state_dict(state)
        assert prepared.task.evaluate(network, "val")["accuracy"] == point.accuracy
    shared, alone = (whole / name for name in ("front.safetensors", "weights.safetensors"))
    assert shared.stat().st_size < len(opened.front.points) * alone.stat().st_size


@pytest.mark.parametrize("after", [0, 3])
def test_a_run_killed_among_the_evaluations_ends_as_the_whole_one(tmp_path: Path, whole: Path, after: int) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(SearchConfig(**FRONT), out, reporter=KillInFront(after))
    assert not (out / "front.json").exists() and not (out / "result.json").exists()
    with pytest.raises(UsageError, match="holds no finished search"):
        open_front(out)
    kept = len(evaluations(out))
    resume(out)
    assert evaluations(out)[:kept] == evaluations(whole)[:kept]
    same(out, whole)


def test_a_budget_bounds_the_front_but_not_the_base(tmp_path: Path) -> None:
    run(SearchConfig(**FRONT | {"budget": "macs<=0.5x", "strategy": "nar", "front": "macs,params"}), tmp_path / "run")
    found = Front.load(tmp_path / "run" / "front.json")
    assert found.costs == ("macs", "params")
    assert all(point.costs["macs"] <= 0.5 * found.base.costs["macs"] for point in found.points)
    assert not any(found.base.vector) and found.base.accuracy is not None


WITHOUT_REWARDS = {"solve", "darts", "gdas", "stacnas"}


@pytest.mark.parametrize(
    "strategy", [name for name in strategy_names() if name not in WITHOUT_REWARDS and "-" not in name]
)
def test_every_strategy_of_rewards_fills_the_archive(strategy: str) -> None:
    space = SearchSpace.uniform(5, 3)
    made = make_strategy(strategy, space, seed=1)
    rng = np.random.default_rng(0)
    for _ in range(8):
        proposals = made.ask(5)
        made.tell(proposals, [Result(float(rng.random())) for _ in proposals])
    chosen = front_vectors(made, [made.archive()], space, ("macs",), 6)
    assert len(chosen) == min(6, len(made.archive()))
    tried = [
        {"vector": e.vector, "accuracy": e.result.reward, "macs": space.cost(e.vector)["macs"]} for e in made.archive()
    ]
    first = {tuple(record["vector"]) for record in front(tried, ("accuracy", "macs"))}
    assert first <= set(chosen) or set(chosen) <= first
    tight = space.within(Budget({"macs": 2.0}))
    assert all(tight.feasible(vector) for vector in front_vectors(made, [made.archive()], tight, ("macs",), 6))


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("solved")
    run(solving(train_base(folder / "base"), pretrain_epochs=1, epochs=2, front=("macs",)), folder / "run")
    return folder / "run"


def test_scores_propose_points_over_the_whole_range(solved: Path) -> None:
    found = Front.load(solved / "front.json")
    base, macs = found.base, [point.costs["macs"] for point in found.points]
    assert found.base_by == "own" and base.accuracy is not None and base.accuracy > 0.5
    # Eight budgets are solved beside what the strategy measured; the cheapest vector of all is among them.
    cheapest = min(record["macs"] for record in evaluations(solved))
    config = SearchConfig.model_validate(json.loads((solved / "config.json").read_text()))
    space = prepare(config, stages_of(config), "cpu", solved).space
    assert cheapest == space.least("macs") and config.budget == "none"
    assert macs == sorted(macs) and found.points[-1].accuracy == max(point.accuracy or 0 for point in found.points)
    assert found.evaluated >= SOLVED_BUDGETS


def test_a_front_nobody_asked_for_has_all_costs_and_the_weights_of_the_kept_vector(tmp_path: Path) -> None:
    result = run(SearchConfig(**CONFIG | {"epochs": 2, "steps": 2}), tmp_path / "run")
    opened = open_front(tmp_path / "run")
    assert opened.front.costs == ("macs", "params") and not (tmp_path / "run" / "front.safetensors").exists()
    assert opened.front.base_by is None and opened.front.base.accuracy is None
    kept = [number for number, point in enumerate(opened.front.points, 1) if point.weights is not None]
    assert [list(opened.front.points[number - 1].vector) for number in kept] in ([], [result["vector"]])
    for number in range(1, len(opened.front.points) + 1):
        assert (opened.weights(number) is not None) == (number in kept)


def test_the_dry_run_counts_the_evaluations_of_the_front() -> None:
    plain, asked = (
        estimate_search(SearchConfig(**CONFIG | {"strategy": "random", **more}))
        for more in ({"budget": "none"}, {"front": "macs", "front_points": 6})
    )
    assert asked["estimate"]["evaluations"] == plain["estimate"]["evaluations"] + 7
    assert "up to 7 of them for the front over macs" in asked["message"] and "front" not in plain["message"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("speed", "--front names 'speed', but the costs known here are params, macs"),
        ("accuracy", "--front names 'accuracy', but the costs known here are"),
        ("macs,flops", "FLOPs are twice as many"),
        ("", "--front names '', but"),
    ],
)
def test_another_cost_is_refused(named: str, said: str) -> None:
    config = SearchConfig(**FRONT | {"front": named.split(",")})
    with pytest.raises(UsageError, match=said) as caught:
        prepare(config, stages_of(config), "cpu", None)
    assert (caught.value.kind, caught.value.where) == ("unknown_metric", "--front")


def test_a_list_and_a_text_say_the_same_and_latency_is_measured_where_it_is_named() -> None:
    text, several = (SearchConfig(**FRONT | {"front": value}) for value in (" MACs, latency", ["macs", "latency"]))
    assert text == several and text.wanted("none") and not SearchConfig(**FRONT).wanted("none")
    assert SearchConfig(**FRONT | {"budget": "params<=0.5x"}).budget == "params<=0.5x"
    with pytest.raises(ValidationError, match="each cost once"):
        SearchConfig(**FRONT | {"front": "macs,macs"})


def test_what_is_best_for_its_cost_is_not_forgotten() -> None:
    """The reward of a cheap vector is low: by its rank alone it would be dropped first."""
    space = SearchSpace.uniform(6, 3)
    history, rewards = History(space, capacity=40), {}
    rng = np.random.default_rng(0)
    vectors = [tuple(v) for v in itertools.product(range(3), repeat=6)]
    for index in rng.permutation(len(vectors)):
        vector = vectors[index]
        rewards[vector] = space.cost(vector)["macs"] / 6 - 0.01 * float(rng.random())
        history.add([Proposal(vector)], [Result(rewards[vector])])
    kept = {entry.vector for entry in history.archive()}
    assert len(kept) < 200
    records = [{"vector": v, "accuracy": r, "macs": space.cost(v)["macs"]} for v, r in rewards.items()]
    cheapest = min(records, key=lambda record: record["macs"])
    assert tuple(cheapest["vector"]) in kept


def test_a_search_that_gets_more_epochs_ends_with_the_front_of_the_longer_one(tmp_path: Path, whole: Path) -> None:
    run(SearchConfig(**FRONT | {"epochs": 2}), tmp_path / "short")
    resume(tmp_path / "short", epochs=3)
    same(tmp_path / "short", whole)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("ddas", {"warmup": 4, "candidates": 4, "hidden": 8, "minibatch": 8}), ("nsga2", {"population": 4})],
)
def test_a_strategy_that_trades_costs_trades_those_of_the_front(
    tmp_path: Path, strategy: str, options: dict[str, Any]
) -> None:
    def steps(name: str, front: str, **more: str) -> list[Any]:
        short = {"strategy": strategy, "front": front, "front_points": 2, "epochs": 2, "finalists": 1}
        run(SearchConfig(**FRONT | short | {"strategy_options": options | more}), tmp_path / name)
        return [(step.vectors, step.more["hypervolume"]) for step in iter_events(tmp_path / name, Step)]

    of_params = steps("params", "params")
    told = steps("told", "macs", costs="params")
    assert [vectors for vectors, _ in of_params] == [vectors for vectors, _ in told]
    assert told != of_params != steps("macs", "macs")  # the hypervolume is always the front's
    assert json.loads((tmp_path / "params" / "config.json").read_text())["strategy_options"] == options


def test_networks_that_are_the_same_are_one_point(tmp_path: Path) -> None:
    """In a cell, edges that no output depends on may be chosen in many ways."""
    model = "narfx:nasbench201?cells=1&channels=4&in_channels=1"
    run(SearchConfig(**FRONT | {"model": model, "front_points": 12, "steps": 8}), tmp_path / "run")
    found = Front.load(tmp_path / "run" / "front.json")
    expected = front(evaluations(tmp_path / "run"), ("macs", "accuracy"))
    pairs = [(point.costs["macs"], point.accuracy) for point in found.points]
    assert pairs == sorted({(record["macs"], record["accuracy"]) for record in expected})
    assert len(expected) > len(pairs)
    for point in found.points:
        equals = [r for r in expected if (r["macs"], r["accuracy"]) == (point.costs["macs"], point.accuracy)]
        kept = json.loads((tmp_path / "run" / "result.json").read_text())["vector"]
        assert list(point.vector) == kept or point.loss == min(record["loss"] for record in equals)


@pytest.mark.parametrize("strategy", ["random", "evolution", "nar", "alternating", "nsga2"])
def test_every_strategy_logs_the_hypervolume_of_all_that_it_evaluated(tmp_path: Path, strategy: str) -> None:
    config = FRONT | {"strategy": strategy, "epochs": 2, "steps": 4, "front_points": 2, "front": "macs,params"}
    run(SearchConfig(**config), tmp_path / "run")
    steps = list(iter_events(tmp_path / "run", Step))
    values = SearchConfig(**config)
    space = prepare(values, stages_of(values), "cpu", None).space
    known = History(space)
    for step in steps:
        proposals = [Proposal(tuple(vector)) for vector in step.vectors or ()]
        known.add(proposals, [Result(reward) for reward in step.rewards or ()])
        assert step.more["hypervolume"] == archive_hypervolume(space, known.archive(), ("macs", "params"))
    assert len(steps) == 4 and 0 < steps[-1].more["hypervolume"] < 1


def test_a_search_without_a_front_logs_it_where_its_strategy_trades_costs(tmp_path: Path) -> None:
    for strategy, logs in (("random", False), ("nsga2", True)):
        run(SearchConfig(**CONFIG | {"strategy": strategy, "epochs": 2, "steps": 2}), tmp_path / strategy)
        assert all(("hypervolume" in step.more) is logs for step in iter_events(tmp_path / strategy, Step))


def test_the_front_of_a_search_of_stages_is_that_of_all_of_them(tmp_path: Path) -> None:
    """The second stage knows one choice at each slot, and so one vector; the first one tried the others."""
    stages = (
        Stage(whole_space, NO_PREPARATION, "nsga2", 1, {"population": 4}),
        Stage(keep_finalists, NO_PREPARATION, "random", 1),
    )
    config = SearchConfig(**FRONT | {"finalists": 1, "steps": 4})
    run(config, tmp_path / "run", stages=stages)
    found, steps = Front.load(tmp_path / "run" / "front.json"), list(iter_events(tmp_path / "run", Step))
    tried = [{tuple(v) for step in steps if step.epoch == epoch for v in step.vectors or ()} for epoch in (1, 2)]
    assert len(tried[1]) == 1 and found.archive == len(tried[0] | tried[1]) > 6
    evaluated = {tuple(record["vector"]) for record in evaluations(tmp_path / "run")}
    assert len(evaluated & tried[0]) >= 5 and tried[1] <= evaluated
    assert all("hypervolume" in step.more for step in steps)


def test_a_stage_that_trades_costs_trades_those_of_the_front(tmp_path: Path) -> None:
    """The same search, asked for by its configuration and by a stage."""
    options = {"population": 4}
    config = FRONT | {"strategy": "nsga2", "strategy_options": options, "front": "params", "steps": 6}
    run(SearchConfig(**config), tmp_path / "plain")
    run(SearchConfig(**config), tmp_path / "staged", stages=[Stage(whole_space, WarmUp(1), "nsga2", 2, options)])
    same(tmp_path / "plain", tmp_path / "staged")
