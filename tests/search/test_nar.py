"""What NAR's policy does and learns."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from taught import SPACES, earned, teach, vectors

from narfx.search import Proposal, Result, make_strategy
from narfx.space.budget import Budget
from narfx.space.records import Vector
from narfx.space.space import SearchSpace


def test_metrics_say_what_the_policy_does() -> None:
    space = SPACES["restricted"]()
    strategy = make_strategy("nar", space, seed=1)
    metrics = teach(strategy, 4)[-1]
    assert set(metrics) == {
        "reward", "baseline", "spread", "entropy", "grad_norm", "log_prob", "probabilities", "gradient", "assigned",
    }  # fmt: skip
    assert metrics["grad_norm"] > 0
    assert 0 < metrics["entropy"] <= math.log(4)
    assert -math.log(space.size) * 2 < metrics["log_prob"] < 0
    for row, slot in zip(metrics["probabilities"], space.slots, strict=True):
        assert math.isclose(sum(row), 1, abs_tol=1e-4)
        assert {k for k, p in enumerate(row) if p > 0} == set(slot.legal)
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize("name", ["nar", "enas"])
def test_batches_of_the_policy_give_the_gradient_of_its_mean_reward(name: str) -> None:
    """Also after the better half of the space was told: the mean over many batches points where the exact one does."""
    space = SearchSpace.uniform(4, 3)
    every = list(itertools.product(range(3), repeat=4))
    strategy = make_strategy(name, space, seed=1, lr=1e-12, entropy_weight=0)
    best = sorted(every, key=earned)[41:]
    for start in range(0, 40, 5):
        told = best[start : start + 5]
        strategy.tell([Proposal(vector) for vector in told], [Result(earned(vector)) for vector in told])
    policy = strategy._policy  # type: ignore[attr-defined]

    def gradient(chosen: Sequence[Vector], weights: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        rows = torch.tensor(chosen)
        log_p = policy(rows).gather(-1, rows[..., None])[..., 0].sum(1)
        loss = (weights(log_p).detach() * log_p).mean()
        found = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
        return torch.cat([part.flatten() for part in found if part is not None])

    exact = gradient(every, lambda log_p: log_p.exp() * torch.tensor([earned(vector) for vector in every]))
    asked = [vector for _ in range(150) for vector in vectors(strategy.ask(5))]
    rewards = torch.tensor([earned(vector) for vector in asked]).view(-1, 5)
    sampled = gradient(asked, lambda _: (rewards - rewards.mean(1, keepdim=True)).flatten())
    assert float(torch.cosine_similarity(exact, sampled, dim=0)) > 0.95


def test_the_policy_starts_near_uniform() -> None:
    metrics = teach(make_strategy("nar", SPACES["free"](), seed=1), 1)[0]
    assert math.isclose(metrics["entropy"], math.log(3), rel_tol=1e-3)
    assert math.isclose(metrics["log_prob"], -8 * math.log(3), rel_tol=1e-2)


def test_the_policy_learns_what_is_best_and_keeps_exploring() -> None:
    strategy = make_strategy("nar", SPACES["free"](), seed=1)
    metrics = teach(strategy, 60)
    best = tuple(max(range(3), key=lambda k: math.sin(1.7 * slot + 2.9 * k)) for slot in range(8))
    likely = tuple(int(np.argmax(row)) for row in metrics[-1]["probabilities"])
    assert sum(map(int.__eq__, likely, best)) >= 7
    assert metrics[0]["reward"] < metrics[-1]["reward"]
    assert 0.02 < metrics[-1]["entropy"] < 0.5 * metrics[0]["entropy"]
    assert math.isclose(metrics[-1]["baseline"], np.mean([m["reward"] for m in metrics[-5:]]), abs_tol=0.7)


def test_entropy_lasts_in_a_long_noisy_search() -> None:
    rng = np.random.default_rng(0)
    strategy = make_strategy("nar", SearchSpace.uniform(16, 4), seed=1)
    entropy = [m["entropy"] for m in teach(strategy, 40, reward=lambda v: earned(v) + 2 * rng.normal())]
    assert entropy[20] > 0.5 * math.log(4)
    assert entropy[-1] > 0.2 * math.log(4)


def test_equal_rewards_teach_nothing() -> None:
    strategy = make_strategy("nar", SPACES["free"](), seed=1)
    first, *others = teach(strategy, 4, reward=lambda vector: 1e6 + 0.1)
    for metrics in others:
        assert metrics["grad_norm"] == 0
        assert metrics["probabilities"] == first["probabilities"]


def test_the_policy_solves_a_knapsack() -> None:
    """Reward for dear operators under half the base's cost, where each slot has its own worth."""
    space = SearchSpace.uniform(10, 3).within(Budget({"macs": 5.0}))
    worth = np.random.default_rng(0).uniform(0.2, 2.0, 10)

    def reward(vector: Vector) -> float:
        return float(worth @ (1 - np.array(vector) / 2))

    strategy = make_strategy("nar", space, seed=0)
    mean = [metrics["reward"] for metrics in teach(strategy, 80, reward=reward)]
    best = np.sort(worth)[-5:].sum()
    assert reward(strategy.finalists(1)[0]) > 0.93 * best
    assert np.mean(mean[-5:]) > np.mean(mean[:5]) + 0.3 * (best - np.mean(mean[:5]))


def test_told_vectors_change_the_policy_whoever_proposed_them() -> None:
    """The lot (1, 1, ...) beats (2, 2, ...): operator 1 gains at every slot, 2 loses."""
    strategy = make_strategy("nar", SPACES["free"](), seed=1)
    for _ in range(5):
        metrics = strategy.tell([Proposal((1,) * 8), Proposal((2,) * 8)], [Result(1.0), Result(0.0)])
    assert all(row[1] > row[0] > row[2] for row in metrics["probabilities"])


def test_what_the_policy_thinks_nearly_impossible_can_be_told() -> None:
    strategy = make_strategy("nar", SPACES["free"](), seed=1)
    for step in range(200):
        pair = [Proposal((1,) * 8), Proposal((2,) * 8 if step % 2 else (0,) * 8)]
        metrics = strategy.tell(pair, [Result(1.0), Result(0.0)])
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    assert all(row[1] > 0.9 and min(row) > 0 for row in metrics["probabilities"])


def test_what_breaks_the_budget_teaches_the_policy_nothing() -> None:
    space = SPACES["budget"]()
    one, other = (make_strategy("nar", space, seed=5) for _ in range(2))
    teach(one, 3)
    teach(other, 3)
    assert one.tell([Proposal(space.base)], [Result(9.0)]) == {}
    lot = [*map(Proposal, [(3,) * 16, space.base, (2,) * 8 + (3,) * 8])]
    mixed = one.tell(lot, [Result(1.0), Result(9.0), Result(0.0)])
    assert mixed == other.tell([lot[0], lot[2]], [Result(1.0), Result(0.0)])


def test_noise_seen_puts_the_policy_before_the_luckiest() -> None:
    rng = np.random.default_rng(0)
    strategy = make_strategy("nar", SPACES["free"](), seed=1)
    metrics = teach(strategy, 40, reward=lambda v: earned(v) + rng.normal())
    assert strategy.finalists(1) == [tuple(int(np.argmax(row)) for row in metrics[-1]["probabilities"])]


def regret(name: str, seed: int, noise: float, evaluations: int = 100) -> float:
    """Of the best found on 8 slots of 3 operators, 1 being the distance from the best to the mean."""
    rng = np.random.default_rng([77, seed])
    single, pair = rng.normal(size=(8, 3)), 0.3 * rng.normal(size=(8, 3, 8, 3))
    every = np.array(list(itertools.product(range(3), repeat=8)))
    truth = sum(single[i, every[:, i]] for i in range(8))
    truth = truth + sum(pair[i, every[:, i], j, every[:, j]] for i in range(8) for j in range(i))
    told = truth + noise * rng.normal(size=len(every))
    index = {tuple(row): at for at, row in enumerate(every.tolist())}
    strategy = make_strategy(name, SPACES["free"](), seed=seed)
    seen: set[Vector] = set()
    for _ in range(3 * evaluations // 5):  # a policy repeats what it thinks good
        if len(seen) >= evaluations:
            break
        proposals = strategy.ask(5)
        strategy.tell(proposals, [Result(float(told[index[v]])) for v in vectors(proposals)])
        seen |= set(vectors(proposals))
    best: float = truth.max()
    return float((best - max(truth[index[v]] for v in seen)) / (best - truth.mean()))


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_nar_beats_random_search(noise: float) -> None:
    pairs = [(regret("nar", seed, noise), regret("random", seed, noise)) for seed in range(8)]
    nar, random = np.mean(pairs, axis=0)
    assert nar < 0.5 * random
    assert sum(a < b for a, b in pairs) >= 6


def test_under_a_tight_budget_the_first_lots_spend_it_anywhere() -> None:
    space = SearchSpace.uniform(20, 4).within(Budget({"macs": 3.0}))
    drawn = np.array(vectors(make_strategy("nar", space, seed=1).ask(400)))
    spent = (1 - drawn / 3).mean(0)
    assert spent[:5].mean() < 2 * spent[-5:].mean()
