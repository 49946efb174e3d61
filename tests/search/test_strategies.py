"""The contract that every strategy keeps, and that NAR's controller learns."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from narfx.budget import Budget
from narfx.errors import UsageError
from narfx.search import Proposal, Result, Strategy, make_strategy, strategies
from narfx.space import SearchSpace, Vector

NAMES = ("evolution", "nar", "random")


def rewards_of(seed: int, slots: int = 8, operators: int = 3) -> dict[Vector, float]:
    """A smooth table: a term for each choice and weaker ones for each pair."""
    rng = np.random.default_rng([seed, slots, operators])
    single, pair = rng.normal(size=(slots, operators)), 0.3 * rng.normal(size=(slots, slots, operators, operators))
    vectors = list(itertools.product(range(operators), repeat=slots))
    v = np.array(vectors)
    total = sum(single[i, v[:, i]] for i in range(slots))
    total = total + sum(pair[i, j, v[:, i], v[:, j]] for i in range(slots) for j in range(i + 1, slots))
    return dict(zip(vectors, ((total - total.mean()) / total.std()).tolist(), strict=True))


def play(strategy: Strategy, rewards: Any, lots: int, n: int = 5) -> list[Vector]:
    asked = []
    for _ in range(lots):
        proposals = strategy.ask(n)
        asked += [proposal.vector for proposal in proposals]
        strategy.tell(proposals, [Result(rewards(proposal.vector)) for proposal in proposals])
    return asked


def fixed_reward(vector: Vector) -> float:
    return float(sum(entry == index % 3 for index, entry in enumerate(vector)))


def test_the_names() -> None:
    assert set(NAMES) <= set(strategies())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 5, 12])
def test_proposals_are_legal_and_meet_the_budget(name: str, n: int) -> None:
    space = SearchSpace.uniform(9, 4).restrict({0: [2], 3: [1, 3]}).within(Budget({"macs": 3.0}))
    strategy = make_strategy(name, space, seed=4)
    for vector in play(strategy, fixed_reward, 8, n):
        assert space.validate(vector) == vector and space.feasible(vector)
    finalists = strategy.finalists(6)
    assert len(finalists) == len(set(finalists)) == 6
    assert all(space.feasible(vector) and space.validate(vector) for vector in finalists)


@pytest.mark.parametrize("name", NAMES)
def test_a_tight_budget_with_two_bounds(name: str) -> None:
    space = SearchSpace.uniform(6, 3)
    low = space.least("macs")
    strategy = make_strategy(name, space.within(Budget({"macs": low + 0.5})), seed=0)
    assert all(space.cost(vector)["macs"] <= low + 0.5 for vector in play(strategy, fixed_reward, 5))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_need_not_be_what_was_asked(name: str) -> None:
    strategy = make_strategy(name, SearchSpace.uniform(4, 3), seed=0)
    asked = strategy.ask(5)
    strategy.tell(asked[:2], [Result(1.0), Result(2.0)])
    strategy.tell([Proposal((0, 1, 2, 0))], [Result(9.0)])
    assert strategy.tell([], []) == {}
    assert (0, 1, 2, 0) in strategy.finalists(3)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_strategy_goes_on_as_if_nothing_had_happened(name: str) -> None:
    space = SearchSpace.uniform(7, 4).within(Budget({"macs": 3.5}))
    whole = make_strategy(name, space, seed=11)
    play(whole, fixed_reward, 6)
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = make_strategy(name, space, seed=99)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert play(whole, fixed_reward, 6) == play(resumed, fixed_reward, 6)
    assert whole.finalists(5) == resumed.finalists(5)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name: str) -> None:
    space = SearchSpace.uniform(8, 4)
    runs = [play(make_strategy(name, space, seed=seed), fixed_reward, 4) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_what_make_strategy_refuses() -> None:
    space = SearchSpace.uniform(2, 2)
    for name, options, kind in (
        ("oracle", {}, "unknown_strategy"),
        ("nar", {"magic": 1}, "strategy_option"),
        ("nar", {"lr": -1.0}, "strategy_option"),
        ("evolution", {"tournament": 99}, "strategy_option"),
    ):
        with pytest.raises(UsageError) as caught:
            make_strategy(name, space, **options)
        assert caught.value.kind == kind


def test_nar_reports_what_a_run_records() -> None:
    strategy = make_strategy("nar", SearchSpace.uniform(5, 3), seed=0)
    proposals = strategy.ask(5)
    metrics = strategy.tell(proposals, [Result(float(i)) for i in range(5)])
    assert {"reward", "baseline", "entropy", "grad_norm", "log_prob", "probabilities"} <= set(metrics)
    assert metrics["reward"] == 2.0 and 0 < metrics["entropy"] <= np.log(3) + 1e-6 and metrics["grad_norm"] > 0
    assert np.allclose(np.sum(metrics["probabilities"], axis=1), 1, atol=1e-3)


@pytest.mark.parametrize(("scale", "offset"), [(1000.0, 0.0), (1e-3, 0.0), (1.0, 1e4), (50.0, -7.0)])
def test_nar_does_not_mind_the_range_of_a_reward(scale: float, offset: float) -> None:
    table = rewards_of(3)
    space = SearchSpace.uniform(8, 3)
    plain = make_strategy("nar", space, seed=5)
    moved = make_strategy("nar", space, seed=5)
    play(plain, lambda vector: table[vector], 10)
    play(moved, lambda vector: offset + scale * table[vector], 10)
    assert plain.ask(20) == moved.ask(20)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_nar_beats_random_after_100_distinct_evaluations(noise: float) -> None:
    """The mean over tables of what the best vector found lacks to the optimum, in standard deviations of a table."""
    regret: dict[str, list[float]] = {"nar": [], "random": []}
    for seed in range(6):
        table = rewards_of(seed)
        rng = np.random.default_rng(seed)
        told = {vector: value + noise * rng.normal() for vector, value in table.items()}
        best = max(table.values())
        for name, lacking in regret.items():
            strategy = make_strategy(name, SearchSpace.uniform(8, 3), seed=seed)
            seen: dict[Vector, None] = {}
            for _ in range(100):
                proposals = strategy.ask(5)
                seen |= dict.fromkeys(proposal.vector for proposal in proposals)
                strategy.tell(proposals, [Result(told[proposal.vector]) for proposal in proposals])
                if len(seen) >= 100:
                    break
            lacking.append(best - max(table[vector] for vector in list(seen)[:100]))
    assert np.mean(regret["nar"]) < 0.5 * np.mean(regret["random"])


def test_random_does_not_repeat_itself_in_a_small_space() -> None:
    strategy = make_strategy("random", SearchSpace.uniform(3, 3), seed=0)
    assert len({proposal.vector for proposal in strategy.ask(27)}) == 27


def test_nar_learns_under_a_budget() -> None:
    """Reward for the dear operators under a budget of half: a knapsack, whose best the policy comes near."""
    space = SearchSpace.uniform(10, 3).within(Budget({"macs": 5.0}))
    worth = np.random.default_rng(0).uniform(0.2, 2.0, 10)

    def reward(vector: Vector) -> float:
        return float(sum(w * (1 - 0.5 * entry) for w, entry in zip(worth, vector, strict=True)))

    best = float(np.sort(worth)[-5:].sum())
    last = [reward(vector) for vector in play(make_strategy("nar", space, seed=0), reward, 80)[-25:]]
    first = [reward(vector) for vector in play(make_strategy("random", space, seed=0), reward, 10)]
    assert max(last) > 0.93 * best and np.mean(last) > np.mean(first) + 0.3 * (best - np.mean(first))
