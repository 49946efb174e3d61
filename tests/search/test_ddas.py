"""DDAS-style search: what it proposes, what it learns from, and that it continues where it was."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fronts import earned, found_volume, spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from small_search import CONFIG, broken_off, same

from narfx.errors import RunError, UsageError
from narfx.runs.events import Step, iter_events
from narfx.search import Proposal, Result, SearchConfig, Strategy, make_strategy, run
from narfx.search.goals import archive_hypervolume
from narfx.search.worth import Worth
from narfx.space.budget import Budget
from narfx.space.records import Slot, Vector
from narfx.space.space import SearchSpace

SMALL = {"warmup": 6, "candidates": 4, "hidden": 8, "minibatch": 8}


def teach(strategy: Strategy, steps: int, lot: int = 4) -> list[dict[str, Any]]:
    metrics = []
    for _ in range(steps):
        proposals = strategy.ask(lot)
        metrics.append(strategy.tell(proposals, [Result(earned(proposal.vector)) for proposal in proposals]))
    return metrics


def vectors(proposals: Sequence[Proposal]) -> list[Vector]:
    return [proposal.vector for proposal in proposals]


# What it proposes


@settings(max_examples=20, deadline=None)
@given(spaces(), st.integers(0, 5), st.sampled_from(["previous", "best"]), st.sampled_from([None, 0.6]))
def test_only_legal_vectors_within_the_budget_are_proposed(
    space: SearchSpace, seed: int, state: str, target: float | None
) -> None:
    strategy = make_strategy("ddas", space, seed=seed, state=state, target=target, **SMALL)
    for _ in range(5):
        proposals = strategy.ask(4)
        assert len(proposals) == 4
        for vector in vectors(proposals):
            assert space.validate(vector) == vector
            assert space.feasible(vector)
        strategy.tell(proposals, [Result(earned(vector)) for vector in vectors(proposals)])
    assert all(map(space.feasible, strategy.finalists(5)))


def test_nothing_is_evaluated_twice_while_there_is_something_new() -> None:
    space = SearchSpace.uniform(6, 3)
    strategy = make_strategy("ddas", space, seed=1)
    asked: list[Vector] = []
    for _ in range(60):
        proposals = strategy.ask(5)
        asked += vectors(proposals)
        strategy.tell(proposals, [Result(earned(vector)) for vector in vectors(proposals)])
    assert len(set(asked)) > 0.98 * len(asked)


def test_what_is_asked_and_never_told_costs_nothing() -> None:
    strategy = make_strategy("ddas", SearchSpace.uniform(6, 3), seed=1, **SMALL)
    teach(strategy, 3)
    before = strategy.state_dict()
    strategy.ask(50)
    after = strategy.state_dict()
    for state in (before, after):
        del state["generator"]
    assert same_state(before, after)


def same_state(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_state, one, other))
    return bool(one == other)


def test_proposals_spread_over_the_costs_and_a_fixed_target_bounds_them() -> None:
    space = SearchSpace.uniform(8, 3)  # dearer is better here

    def reward(vector: Vector) -> float:
        return space.cost(vector)["macs"] + 0.1 * earned(vector)

    costs = {}
    for target in (None, 0.5):
        strategy = make_strategy("ddas", space, seed=2, target=target)
        for _ in range(40):
            proposals = strategy.ask(5)
            strategy.tell(proposals, [Result(reward(vector)) for vector in vectors(proposals)])
        costs[target] = [space.cost(vector)["macs"] for vector in vectors(strategy.ask(60))]
    assert np.std(costs[None]) > 0.5
    assert min(costs[None]) < 3 < 5 < max(costs[None])
    assert 3 <= np.mean(costs[0.5]) <= 4.25  # T is 4


# That it learns


@pytest.mark.parametrize("options", [{}, {"state": "best", "critic_loss": "check"}, {"gamma": 0.3}])
def test_it_finds_a_better_front_than_random_search(options: dict[str, Any]) -> None:
    pairs = [(found_volume("ddas", seed, 100, **options), found_volume("random", seed, 100)) for seed in (1, 2)]
    assert all(ddas > random for ddas, random in pairs)
    assert np.mean([ddas - random for ddas, random in pairs]) > 0.02


def test_without_a_penalty_the_reward_alone_counts() -> None:
    space = SearchSpace.uniform(8, 3)
    strategy = make_strategy("ddas", space, seed=1, penalty=0.0)
    teach(strategy, 40, 5)
    best = max(earned(entry.vector) for entry in strategy.archive())
    top = sum(max(earned_at(slot, k) for k in range(3)) for slot in range(8))
    assert best > 0.97 * top


def earned_at(slot: int, entry: int) -> float:
    return math.sin(1.7 * slot + 2.9 * entry)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0.1, 1), st.floats(0.01, 0.3), st.floats(-2, 2),
    st.lists(st.floats(0.1, 3), min_size=1, max_size=3), st.floats(-1, 0),
)  # fmt: skip
def test_what_a_vector_is_worth(mean: float, spread: float, reward: float, ratios: list[float], w: float) -> None:
    """Both forms in plain numbers; mean and standard deviation are those of the rewards seen."""
    given = torch.tensor([reward], dtype=torch.float64), torch.tensor([ratios], dtype=torch.float64), mean, spread
    over = sum(max(0.0, ratio - 1) for ratio in ratios)
    assert float(Worth("excess", 3.0, w).of(*given)) == pytest.approx(reward - 3 * over)
    raw = (mean + spread * reward) * math.prod(ratio**w for ratio in ratios)
    assert float(Worth("power", 3.0, w).of(*given)) == pytest.approx((raw - mean) / spread, abs=1e-6)


def test_the_form_of_mnasnet_heeds_a_fixed_target_the_more_the_steeper_it_is() -> None:
    space, costs = SearchSpace.uniform(8, 3), {}
    for exponent in (0.0, -0.07, -1.0):
        strategy = make_strategy("ddas", space, seed=2, target=0.5, form="power", exponent=exponent)
        for _ in range(40):
            proposals = strategy.ask(5)
            rewards = [0.5 + 0.04 * space.cost(vector)["macs"] for vector in vectors(proposals)]
            strategy.tell(proposals, [Result(reward) for reward in rewards])
        costs[exponent] = np.mean([space.cost(vector)["macs"] for vector in vectors(strategy.ask(60))])
    assert costs[-1.0] < costs[-0.07] - 0.5 and costs[-1.0] < costs[0.0] - 1


def test_metrics_are_finite_numbers_and_the_noise_falls() -> None:
    strategy = make_strategy("ddas", SearchSpace.uniform(6, 3), seed=1, warmup=8, noise_steps=40, noise_end=0.1)
    metrics = teach(strategy, 20)
    json.dumps(metrics, allow_nan=False)
    assert set(metrics[0]) == {"reward", "noise"}
    assert set(metrics[-1]) == {"reward", "noise", "critic_loss", "gradient"}
    assert set(metrics[-1]["gradient"]) == {"actor", "critic"} and min(metrics[-1]["gradient"].values()) > 0
    assert metrics[0]["noise"] == 0.5
    assert metrics[-1]["noise"] == pytest.approx(0.1)
    assert metrics[-1]["critic_loss"] > 0


# Costs that are told


def test_told_costs_go_before_the_spaces_own() -> None:
    space = SearchSpace.uniform(6, 3).within(Budget({"macs": 3.0}))
    strategy = make_strategy("ddas", space, seed=1, **SMALL)
    told: dict[Vector, float] = {}
    for _ in range(12):
        proposals = strategy.ask(4)
        for vector in vectors(proposals):
            told[vector] = 10.0 - space.cost(vector)["macs"]  # what the space calls cheap is dear
        strategy.tell(proposals, [Result(earned(vector), {"macs": told[vector]}) for vector in vectors(proposals)])
    for resumed in (strategy, copied(strategy, space)):
        assert {entry.vector: entry.result.costs["macs"] for entry in resumed.archive()} == told
    assert strategy.finalists(5) == []  # by the told costs none meets the budget


def copied(strategy: Strategy, space: SearchSpace) -> Strategy:
    other = make_strategy("ddas", space, **SMALL)
    other.load_state_dict(strategy.state_dict())
    return other


def test_the_search_heeds_told_costs() -> None:
    """Every slot's costs are turned round: the front of the told costs is found all the same."""
    space = SearchSpace.uniform(8, 3)
    strategy = make_strategy("ddas", space, seed=3, target=0.3)

    def dear(vector: Vector) -> float:
        return 8.0 - space.cost(vector)["macs"]

    for _ in range(40):
        proposals = strategy.ask(5)
        strategy.tell(proposals, [Result(0.1 * earned(v), {"macs": dear(v)}) for v in vectors(proposals)])
    assert np.mean([dear(vector) for vector in vectors(strategy.ask(40))]) < 3.5  # 4 if they were not heeded


def test_a_told_cost_that_is_no_number_stops_the_run_and_teaches_nothing() -> None:
    strategy = make_strategy("ddas", SearchSpace.uniform(4, 2), seed=1, **SMALL)
    proposals = strategy.ask(2)
    with pytest.raises(RunError, match="finite costs only") as caught:
        strategy.tell(proposals, [Result(1.0), Result(1.0, {"macs": math.nan})])
    assert caught.value.kind == "cost_not_finite"
    assert strategy.archive() == []


# Special spaces and rewards


def test_a_constant_reward_and_a_constant_cost_are_no_obstacle() -> None:
    names = ("base", "op1", "op2")
    free = SearchSpace(
        names, tuple(Slot(f"s{i}", (), (0, 1, 2), {}, {"macs": (2.0,) * 3}, choices=names) for i in "abcd")
    )
    strategy = make_strategy("ddas", free, seed=1, **SMALL)
    for _ in range(8):
        proposals = strategy.ask(4)
        metrics = strategy.tell(proposals, [Result(0.1)] * 4)
    json.dumps(metrics, allow_nan=False)
    assert archive_hypervolume(free, strategy.archive(), ("macs",)) == 0  # nothing is saved
    assert len(strategy.archive()) > 20


def test_a_space_without_costs_is_searched_by_reward() -> None:
    names = ("base", "op1", "op2")
    space = SearchSpace(names, tuple(Slot(f"s{i}", (), (0, 1, 2), {}, {}, choices=names) for i in range(6)))
    strategy = make_strategy("ddas", space, seed=1)
    metrics = teach(strategy, 25)
    assert metrics[-1]["reward"] > metrics[0]["reward"]


# Resuming


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 3), st.integers(1, 4),
    st.fixed_dictionaries({
        "state": st.sampled_from(["previous", "best"]), "critic_loss": st.sampled_from(["squared", "check"]),
        "form": st.sampled_from(["excess", "power"]),
        "baseline": st.sampled_from(["levels", "mean", "none"]), "gamma": st.sampled_from([0.0, 0.5]),
        "replay": st.sampled_from([10, 1000]),
    }),
)  # fmt: skip
def test_a_state_in_the_middle_is_all_there_is(before: int, lot: int, options: dict[str, Any]) -> None:
    space = SearchSpace.uniform(5, 3).within(Budget({"macs": 3.0}))
    strategy = make_strategy("ddas", space, seed=1, **SMALL, **options)
    teach(strategy, 2 * before, lot)
    strategy.ask(3)
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    resumed = make_strategy("ddas", space, seed=9, **SMALL, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.ask(3) == strategy.ask(3)
    assert teach(resumed, 4, lot) == teach(strategy, 4, lot)
    assert resumed.archive() == strategy.archive()
    assert same_state(resumed.state_dict(), strategy.state_dict())


def test_the_replay_is_bounded() -> None:
    strategy = make_strategy("ddas", SearchSpace.uniform(6, 3), seed=1, **SMALL, replay=10)
    teach(strategy, 9)
    assert sum(len(rewards) for _, _, rewards in strategy.state_dict()["replay"]["batches"]) == 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ddas") / "run"
    run(config(), out)
    return out


def config() -> SearchConfig:
    return SearchConfig(**CONFIG | {"strategy": "ddas", "strategy_options": SMALL, "epochs": 4})


@pytest.mark.parametrize("event", [5, 13])
def test_a_killed_run_resumes_to_the_same(tmp_path: Path, whole: Path, event: int) -> None:
    broken_off(tmp_path / "run", event, config())
    same(tmp_path / "run", whole)


def test_the_events_of_a_run_have_the_strategys_metrics(whole: Path) -> None:
    steps = list(iter_events(whole, Step))
    assert all({"reward", "noise", "hypervolume"} <= set(step.more) for step in steps)
    assert "critic_loss" in steps[-1].more
    assert 0 < steps[-1].more["hypervolume"] <= 1


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"warmups": 1}, "there is no 'warmups'; it has costs=, form=excess, penalty=10.0"),
        ({"form": "log"}, "form is 'log', and must be excess or power"),
        ({"exponent": math.inf}, "exponent is inf, which is not a finite number"),
        ({"warmup": -1}, "warmup is -1, and must be at least 0"),
        ({"noise": math.nan}, "noise is nan, which is not a finite number"),
        ({"tau": 1.0}, "tau is 1.0, and must be below 1"),
        ({"tau": 0.0}, "tau is 0.0, and must be above 0"),
        ({"gamma": 1.0}, "gamma is 1.0, and must be below 1"),
        ({"state": "next"}, "state is 'next', and must be previous or best"),
        ({"critic_loss": "huber"}, "critic_loss is 'huber', and must be squared or check"),
        ({"baseline": 3}, "baseline is 3, and must be levels or mean or none"),
        ({"costs": "joules"}, "costs has 'joules', but the costs known here are macs"),
        ({"costs": 3}, "costs is 3, and must be names of costs"),
        ({"target": 0}, "target is 0, and must be above 0"),
        ({"penalty": -1}, "penalty is -1, and must be at least 0"),
        ({"candidates": 0}, "candidates is 0, and must be at least 1"),
        ({"near": 1.5}, "near is 1.5, and must be at most 1"),
        ({"replay": 2.5}, "replay is 2.5, which is not a whole number"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_strategy("ddas", SearchSpace.uniform(4, 3), **options)
    assert words in str(caught.value)
    assert caught.value.kind == "strategy_option"
