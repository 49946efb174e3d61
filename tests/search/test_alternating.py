"""Operators and skips in turns: what a phase changes, who is accepted, and that reported rewards never fall."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_spaces import joint_spaces

from narfx.errors import UsageError
from narfx.search import Alternating, Proposal, Result, make_strategy
from narfx.search.assigned_rewards import parts
from narfx.search.strategies.accept_test import AcceptTest
from narfx.space.budget import Budget
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

SPACE = SearchSpace.uniform(5, 3, skips=True)
MODES = ("policy", "sample")


def table(seed: int, space: SearchSpace = SPACE) -> Callable[[Vector], float]:
    """Worths of all entries and of pairs of neighbours: the best of one part depends on the other."""
    rng = np.random.default_rng(seed)
    single, pair = rng.normal(size=(len(space), 4)), rng.normal(size=(len(space), 4, 4))

    def reward(vector: Vector) -> float:
        return float(
            sum(single[i, k] for i, k in enumerate(vector))
            + 0.5 * sum(pair[i, vector[i - 1], vector[i]] for i in range(len(vector)))
        )

    return reward


def step(strategy: Alternating, reward: Callable[[Vector], float], lot: int = 5) -> tuple[list[Vector], dict[str, Any]]:
    proposals = strategy.ask(lot)
    metrics = strategy.tell(proposals, [Result(reward(proposal.vector)) for proposal in proposals])
    return [proposal.vector for proposal in proposals], metrics


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", MODES)
def test_the_incumbents_reward_never_falls_on_a_table(mode: str, seed: int) -> None:
    reward, strategy = table(seed), Alternating(SPACE, seed=seed, mode=mode, phase=6, evaluations=2, hidden=4)
    told = [reward(strategy.incumbent)]
    for _ in range(48):
        _, metrics = step(strategy, reward)
        phase = metrics["phase"]
        if phase["accepted"] is None:
            assert phase["before"] is phase["incumbent"] is None
            continue
        assert phase["before"] == told[-1]
        assert phase["incumbent"] == reward(strategy.incumbent)
        assert phase["accepted"] or phase["incumbent"] == phase["before"]
        told.append(phase["incumbent"])
    assert all(a <= b for a, b in itertools.pairwise(told))
    assert told[-1] > told[0]
    assert phase["index"] == 7


@pytest.mark.parametrize("mode", MODES)
def test_on_minibatches_each_decision_compares_the_same_data(mode: str) -> None:
    """Every lot has a level of its own, far above what vectors differ by."""
    rng, reward = np.random.default_rng(0), table(1)
    strategy = Alternating(SPACE, seed=1, mode=mode, phase=6, evaluations=2, hidden=4)
    accepted, trial = 0, []
    for _ in range(48):
        level, before = 1000 * rng.normal(), strategy.incumbent
        proposals = strategy.ask(5)
        rewards = {p.vector: level + reward(p.vector) for p in proposals}
        phase = strategy.tell(proposals, [Result(rewards[p.vector]) for p in proposals])["phase"]
        trial.append(rewards)
        if phase["accepted"] is None:
            continue
        assert all(before in lot for lot in trial[-2:])
        means = {v: np.mean([lot[v] for lot in trial[-2:]]) for v in trial[-1] if v in trial[-2]}
        assert math.isclose(phase["before"], means[before])
        assert math.isclose(phase["incumbent"], max(means.values()))
        assert phase["incumbent"] >= phase["before"]
        assert reward(strategy.incumbent) >= reward(before)
        accepted += phase["accepted"]
    assert accepted >= 2


@pytest.mark.parametrize("mode", MODES)
def test_a_phase_changes_one_part_alone(mode: str) -> None:
    strategy = Alternating(SPACE, mode=mode, phase=4, evaluations=2, hidden=4)
    slots, seen = parts(SPACE), []
    for _ in range(24):
        before = strategy.incumbent
        vectors, metrics = step(strategy, table(3))
        part = metrics["phase"]["part"]
        fixed = slots["skips" if part == "operators" else "operators"]
        assert all(vector[index] == before[index] for vector in vectors for index in fixed)
        assert len(set(vectors)) > 1
        assert set(metrics.get("gradient", {part: 0})) == {part}
        seen.append((metrics["phase"]["index"], part))
    assert list(dict.fromkeys(seen)) == [(i, ("operators", "skips")[i % 2]) for i in range(6)]


def test_a_policy_learns_in_its_phase_and_a_sampler_never() -> None:
    reward = table(2)
    for mode in MODES:
        strategy = Alternating(SPACE, mode=mode, phase=10, evaluations=2)
        metrics = [step(strategy, reward)[1] for _ in range(10)]
        assert ["gradient" in entry for entry in metrics] == [mode == "policy"] * 8 + [False] * 2
        assert all("assigned" in entry and "reward" in entry for entry in metrics)
        json.dumps(metrics, allow_nan=False)


def test_it_climbs_well_above_what_random_search_finds() -> None:
    found: dict[str, list[float]] = {"alternating": [], "random": []}
    for seed in range(3):
        reward = table(10 + seed)
        for name, rewards in found.items():
            strategy = make_strategy(name, SPACE, seed=seed)
            for _ in range(40):
                proposals = strategy.ask(5)
                strategy.tell(proposals, [Result(reward(proposal.vector)) for proposal in proposals])
            rewards.append(reward(strategy.finalists(1)[0]))
    assert all(a > b for a, b in zip(found["alternating"], found["random"], strict=True)), found


@settings(max_examples=12)
@given(joint_spaces(), st.sampled_from(MODES), st.data())
def test_it_asks_what_is_legal_and_resumes_exactly_at_any_moment(
    space: SearchSpace, mode: str, data: st.DataObject
) -> None:
    options: dict[str, Any] = {"mode": mode, "phase": 3, "evaluations": 2, "hidden": 4}
    strategy, reward = make_strategy("alternating", space, seed=1, **options), table(0, space)
    for lot, told in data.draw(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=6)):
        proposals = strategy.ask(lot)
        assert len(proposals) == lot
        assert all(space.validate(p.vector) == p.vector and space.feasible(p.vector) for p in proposals)
        if told:
            strategy.tell(proposals, [Result(reward(proposal.vector)) for proposal in proposals])
    resumed = make_strategy("alternating", space, seed=2, **options)
    resumed.load_state_dict(strategy.state_dict())
    for _ in range(4):
        one, other = strategy.ask(3), resumed.ask(3)
        assert one == other
        results = [Result(reward(proposal.vector)) for proposal in one]
        assert strategy.tell(one, results) == resumed.tell(other, results)
    assert strategy.finalists(5) == resumed.finalists(5)


def test_it_starts_from_the_base_or_where_the_budget_lets_it() -> None:
    assert Alternating(SPACE).incumbent == SPACE.base
    tight = SPACE.within(Budget({"macs": 1.0}))
    assert tight.feasible(Alternating(tight).incumbent)


def test_without_skips_all_phases_are_of_operators() -> None:
    strategy = Alternating(SearchSpace.uniform(4, 3), mode="sample", phase=1, evaluations=1)
    seen = [step(strategy, lambda vector: -float(sum(vector)))[1]["phase"] for _ in range(3)]
    assert [(phase["index"], phase["part"]) for phase in seen] == [(0, "operators"), (1, "operators"), (2, "operators")]
    assert not any(phase["accepted"] for phase in seen)


def test_lots_of_one_accept_nothing() -> None:
    strategy = Alternating(SPACE, mode="sample", phase=2, evaluations=1)
    for _ in range(6):
        _, metrics = step(strategy, table(0), lot=1)
        assert metrics["phase"]["accepted"] is False
    assert strategy.incumbent == SPACE.base


def test_a_lot_without_the_incumbent_decides_nothing() -> None:
    strategy = Alternating(SPACE, mode="sample", phase=1, evaluations=1)
    others = [proposal for proposal in strategy.ask(5) if proposal.vector != strategy.incumbent]
    metrics = strategy.tell(others, [Result(1.0)] * len(others))
    assert metrics["phase"]["accepted"] is None
    assert step(strategy, lambda vector: 0.0)[1]["phase"]["accepted"] is True  # at least as good is enough


def test_a_trial_counts_only_who_was_in_every_lot() -> None:
    a, b, c = (0, 0), (0, 1), (1, 1)
    trial = AcceptTest(a, [b, c])
    trial.take([(a, 1.0), (b, 2.0), (c, 1.5)])
    trial.take([(b, 9.0), (c, 9.0)])  # without the incumbent
    trial.take([(a, 3.0), (c, 3.0), (c, 99.0)])  # of two the first counts
    assert trial.batches == 2
    assert trial.winner() == (c, 2.25, 2.0)
    assert AcceptTest.from_state(json.loads(json.dumps(trial.state_dict()))).winner() == trial.winner()
    trial = AcceptTest(a, [b])
    trial.take([(a, 1.0), (b, 0.9)])
    assert trial.winner() == (a, 1.0, 1.0)


def test_what_the_incumbent_cannot_share_teaches_the_policy_nothing() -> None:
    """In a phase of operators, vectors with other skips than the incumbent's are only remembered."""
    one, other = (Alternating(SPACE, seed=3) for _ in range(2))
    lot = one.ask(4)
    assert other.ask(4) == lot
    strange = Proposal((*lot[0].vector[:5], *(1 for _ in range(len(SPACE) - 5))))
    results = [Result(float(i)) for i in range(4)]
    learned = one.tell(lot, results)["policy"]
    mixed = other.tell([*lot, strange], [*results, Result(1.5)])["policy"]
    assert mixed == learned


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "other"}, {"phase": 3, "evaluations": 3}, {"phase": 0, "mode": "sample"}, {"evaluations": 0},
        {"candidates": 0}, {"lr": -1.0}, {"skip_prior": 0.4},
    ],
)  # fmt: skip
def test_a_wrong_option_is_a_usage_error(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))) as caught:
        make_strategy("alternating", SPACE, **options)
    assert caught.value.kind == "strategy_option"
