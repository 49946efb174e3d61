"""What every strategy promises, what NAR's controller does with a reward, and that it learns."""

from __future__ import annotations

import io
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narfx.errors import RunError, UsageError
from narfx.search import Proposal, Result, Strategy, make_strategy, strategy_names
from narfx.search.history import History
from narfx.search.policies.masks import Masks, budget_prior
from narfx.space.budget import Budget
from narfx.space.records import Slot, Vector
from narfx.space.space import SearchSpace

NAMES = ("alternating", "ddas", "enas", "evolution", "nar", "nsga2", "random")
TOOL = Path(__file__).parents[2] / "tools" / "strategy_tables.py"


def two_bounds() -> SearchSpace:
    """Each bound leaves much, both leave little: what is cheap in one metric is dear in the other."""
    costs = {"macs": (3.0, 2.0, 0.0), "params": (0.0, 2.0, 3.0)}
    names = ("base", "op1", "op2")
    slots = tuple(Slot(f"slot{i}", (), (0, 1, 2), {}, costs, choices=names) for i in range(6))
    space = SearchSpace(names, slots, {"macs": 1.0})
    return space.within(Budget({"macs": 10.0, "params": 9.0}))


SPACES: dict[str, Callable[[], SearchSpace]] = {
    "free": lambda: SearchSpace.uniform(8, 3),
    "budget": lambda: SearchSpace.uniform(16, 4).within(Budget({"macs": 5.0})),
    "two bounds": two_bounds,
    "restricted": lambda: SearchSpace.uniform(6, 4).restrict({0: [2], 3: [1, 3], 5: [0]}),
    "one vector": lambda: SearchSpace.uniform(3, 2).restrict({0: [1], 1: [0], 2: [1]}),
    "skips": lambda: SearchSpace.uniform(5, 3, skips=True),
    "only the cheapest": lambda: SearchSpace.uniform(4, 3).within(Budget({"macs": 0.0})),
}


def earned(vector: Vector) -> float:
    """A reward that has one best vector, and differs for nearly all."""
    return float(sum(math.sin(1.7 * slot + 2.9 * entry) for slot, entry in enumerate(vector)))


def teach(strategy: Strategy, steps: int, lot: int = 5, reward: Callable[[Vector], float] = earned) -> list[Any]:
    """Ask and tell; returns the metrics of each step."""
    metrics = []
    for _ in range(steps):
        proposals = strategy.ask(lot)
        metrics.append(strategy.tell(proposals, [Result(reward(proposal.vector)) for proposal in proposals]))
    return metrics


def vectors(proposals: Sequence[Proposal]) -> list[Vector]:
    return [proposal.vector for proposal in proposals]


# The contract


def test_the_strategies_are_known_by_name() -> None:
    assert set(NAMES) <= set(strategy_names())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", NAMES)
def test_proposals_and_finalists_are_legal_and_meet_the_budget(name: str, space: str) -> None:
    where = SPACES[space]()
    strategy = make_strategy(name, where, seed=3)
    asked: list[Vector] = []
    for lot in (1, 5, 0, 12, 30):
        proposals = strategy.ask(lot)
        assert len(proposals) == lot
        asked += vectors(proposals)
        told = proposals[: lot - lot // 3]  # fewer than asked
        metrics = strategy.tell(told, [Result(earned(proposal.vector)) for proposal in told])
        assert metrics == {} if not told else math.isclose(metrics["reward"], np.mean([*map(earned, vectors(told))]))
    finalists = strategy.finalists(7)
    assert 1 <= len(finalists) <= 7
    assert len(set(finalists)) == len(finalists)
    for vector in (*asked, *finalists):
        assert where.validate(vector) == vector
        assert where.feasible(vector)


@pytest.mark.parametrize("lot", [1, 5, 8])
@pytest.mark.parametrize("space", ["free", "budget", "skips"])
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_strategy_goes_on_exactly(name: str, space: str, lot: int) -> None:
    strategy = make_strategy(name, SPACES[space](), seed=1)
    teach(strategy, 6, lot)
    strategy.ask(4)  # never told
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    kept = strategy.state_dict()
    expected = [(strategy.ask(3), *teach(strategy, 4, lot), strategy.finalists(9))]
    file.seek(0)
    for state in (torch.load(file, weights_only=True), kept):  # a state does not move on with its strategy
        resumed = make_strategy(name, SPACES[space](), seed=99)
        resumed.load_state_dict(state)
        assert [(resumed.ask(3), *teach(resumed, 4, lot), resumed.finalists(9))] == expected


@pytest.mark.parametrize("name", NAMES)
def test_draws_depend_on_the_seed_alone(name: str) -> None:
    def run(seed: int) -> list[Vector]:
        strategy = make_strategy(name, SPACES["free"](), seed=seed)
        teach(strategy, 5)
        return vectors(strategy.ask(20))

    torch.manual_seed(1)
    first, state = run(5), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # and torch's own generator is left alone
    torch.manual_seed(2)
    np.random.seed(2)
    assert run(5) == first
    assert run(6) != first


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("scale", "offset"), [(1000.0, 0.0), (1e-3, 0.0), (1.0, 1e6), (250.0, -3e4)])
def test_any_range_of_the_reward_will_do(name: str, scale: float, offset: float) -> None:
    plain, moved = (make_strategy(name, SPACES["budget"](), seed=2) for _ in range(2))
    teach(plain, 12)
    teach(moved, 12, reward=lambda vector: offset + scale * earned(vector))
    assert vectors(moved.ask(20)) == vectors(plain.ask(20))


@pytest.mark.parametrize("name", NAMES)
def test_the_best_told_comes_first_where_rewards_are_exact(name: str) -> None:
    strategy = make_strategy(name, SPACES["free"](), seed=4)
    told = []
    for _ in range(6):
        proposals = strategy.ask(5)
        told += vectors(proposals)
        strategy.tell(proposals, [Result(earned(proposal.vector)) for proposal in proposals])
    assert strategy.finalists(3)[0] == max(told, key=earned)


@pytest.mark.parametrize("name", NAMES)
def test_naming_finalists_changes_nothing(name: str) -> None:
    one, other = (make_strategy(name, SPACES["free"](), seed=4) for _ in range(2))
    teach(one, 3)
    teach(other, 3)
    assert one.finalists(10) == one.finalists(10)
    assert one.ask(10) == other.ask(10)


@pytest.mark.parametrize("name", NAMES)
def test_what_another_proposed_can_be_told(name: str) -> None:
    strategy = make_strategy(name, SPACES["free"]())
    strategy.tell([Proposal((1,) * 8), Proposal((2,) * 8)], [Result(0.5), Result(0.25, {"macs": 1.0})])
    assert strategy.finalists(1) == [(1,) * 8]


@pytest.mark.parametrize("name", NAMES)
def test_what_breaks_the_budget_is_never_a_finalist(name: str) -> None:
    space = SPACES["budget"]()
    strategy = make_strategy(name, space)
    dear = [Proposal(space.base)] * 3
    strategy.tell(dear, [Result(100.0)] * 3)
    teach(strategy, 8)
    strategy.tell(dear, [Result(100.0)] * 3)
    assert all(map(space.feasible, [*strategy.finalists(10), *vectors(strategy.ask(30))]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_stops_the_run_and_teaches_nothing(name: str, reward: float) -> None:
    strategy, other = (make_strategy(name, SPACES["free"]()) for _ in range(2))
    proposals = strategy.ask(2)
    other.ask(2)
    with pytest.raises(RunError, match="finite rewards only") as caught:
        strategy.tell(proposals, [Result(1.0), Result(reward)])
    assert caught.value.kind == "reward_not_finite"
    teach(strategy, 2)
    teach(other, 2)
    assert strategy.finalists(5) == other.finalists(5)


@pytest.mark.parametrize("name", NAMES)
def test_an_illegal_vector_is_refused(name: str) -> None:
    strategy = make_strategy(name, SPACES["restricted"]())
    with pytest.raises(UsageError, match="slot 0"):
        strategy.tell([Proposal((1, 0, 0, 1, 0, 0))], [Result(1.0)])
    with pytest.raises(ValueError, match="shorter"):
        strategy.tell(strategy.ask(2), [Result(1.0)])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nar", {"learning_rate": 1.0}),
        ("nar", {"hidden": 0}),
        ("nar", {"hidden": "many"}),
        ("nar", {"lr": math.nan}),
        ("nar", {"entropy_weight": -0.1}),
        ("nar", {"baseline_decay": 1.0}),
        ("nar", {"hidden": 2.5}),
        ("evolution", {"tournament": 30}),
        ("evolution", {"tournament": 0}),
        ("evolution", {"population": 20.5}),
        ("random", {"lr": 1.0}),
    ],
)
def test_a_wrong_option_is_a_usage_error(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))) as caught:
        make_strategy(name, SPACES["free"](), **options)
    assert caught.value.kind == "strategy_option"


def test_an_unknown_strategy_is_a_usage_error_that_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="evolution, nar, nsga2, random") as caught:
        make_strategy("annealing", SPACES["free"]())
    assert caught.value.kind == "unknown_strategy"


# Random search and evolution


@pytest.mark.parametrize("budget", [None, 1.5])
def test_random_search_repeats_nothing_while_there_is_something_new(budget: float | None) -> None:
    space = SearchSpace.uniform(5, 3)
    if budget is not None:
        space = space.within(Budget({"macs": budget}))
    everything = {v for v in itertools.product(range(3), repeat=5) if space.feasible(v)}
    strategy = make_strategy("random", space, seed=7)
    asked = vectors(strategy.ask(len(everything)))
    assert len(asked) == len(set(asked))
    assert set(asked) == everything
    assert set(vectors(strategy.ask(5))) <= everything


def test_evolution_changes_one_slot_of_a_member_of_its_population() -> None:
    strategy = make_strategy("evolution", SPACES["free"](), population=6, tournament=3)
    told: list[Vector] = []
    for step in range(20):
        proposals = strategy.ask(3)
        if step >= 2:  # six are told, so the population is full
            assert all(any(sum(map(int.__ne__, v, m)) == 1 for m in told[-6:]) for v in vectors(proposals))
        strategy.tell(proposals, [Result(earned(proposal.vector)) for proposal in proposals])
        told += vectors(proposals)


def test_evolution_breeds_from_the_best_of_a_full_tournament() -> None:
    strategy = make_strategy("evolution", SPACES["free"](), population=6, tournament=6)
    told = vectors(strategy.ask(6))
    strategy.tell([*map(Proposal, told)], [Result(earned(vector)) for vector in told])
    best = max(told, key=earned)
    assert all(sum(map(int.__ne__, vector, best)) == 1 for vector in vectors(strategy.ask(20)))


# NAR


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


# Masks, priors and the record


@st.composite
def spaces_and_prefixes(draw: st.DrawFn) -> tuple[SearchSpace, list[Vector]]:
    slots, operators = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    cost = draw(st.sampled_from([st.integers(0, 10**12), st.floats(0, 1, allow_subnormal=False), st.just(0.1)]))
    row = st.tuples(*[cost] * operators)
    legal = st.sets(st.integers(1, operators - 1)) if operators > 1 else st.just(set())
    names = tuple(f"op{k}" for k in range(operators))

    def one(index: int) -> Slot:
        here, costs = tuple(sorted({0} | draw(legal))), {"macs": draw(row), "params": draw(row)}
        return Slot(f"slot{index}", (), here, {}, costs, choices=names)

    space = SearchSpace(names, tuple(one(index) for index in range(slots)), {"macs": draw(cost)})
    bounds = {m: space.least(m) + draw(st.floats(0, 1)) * (space.most(m) - space.least(m)) for m in ("macs", "params")}
    whole = [tuple(draw(st.sampled_from(slot.legal)) for slot in space.slots) for _ in range(3)]
    return replace(space, budget=Budget(bounds)), whole


@settings(max_examples=80, deadline=None)
@given(spaces_and_prefixes())
def test_masks_say_what_the_space_allows(drawn: tuple[SearchSpace, list[Vector]]) -> None:
    space, whole = drawn
    walk = Masks(space).walk(len(whole))
    for slot in range(len(space)):
        allowed = [tuple(np.flatnonzero(row).tolist()) for row in walk.allowed()]
        assert allowed == [space.allowed(vector[:slot]) for vector in whole]
        walk.take(np.array([vector[slot] for vector in whole]))


def test_no_budget_no_prior() -> None:
    assert not budget_prior(SPACES["free"]()).any()
    assert not budget_prior(SearchSpace.uniform(8, 3).within(Budget({"macs": 7.0}))).any()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.45])
def test_the_prior_of_a_tight_budget_meets_it_in_the_mean(share: float) -> None:
    space = SearchSpace.uniform(12, 4).within(Budget({"macs": 12 * share}))
    p = np.exp(budget_prior(space))
    p /= p.sum(1, keepdims=True)
    assert math.isclose((p * np.array(space.slots[0].costs["macs"])).sum(), 12 * share, rel_tol=1e-3)


def test_under_a_tight_budget_the_first_lots_spend_it_anywhere() -> None:
    space = SearchSpace.uniform(20, 4).within(Budget({"macs": 3.0}))
    drawn = np.array(vectors(make_strategy("nar", space, seed=1).ask(400)))
    spent = (1 - drawn / 3).mean(0)
    assert spent[:5].mean() < 2 * spent[-5:].mean()


def test_a_record_in_bounded_memory_keeps_the_better_half() -> None:
    history = History(SearchSpace.uniform(5, 3), capacity=20)
    everything = list(itertools.product(range(3), repeat=5))
    for vector in everything:
        history.add([Proposal(vector)], [Result(earned(vector))])
    assert len(history) <= 20
    assert history.best(5) == sorted(everything, key=earned, reverse=True)[:5]


def test_a_record_of_repetitions_is_bounded_too() -> None:
    history = History(SearchSpace.uniform(2, 2), capacity=5)
    for step in range(40):
        history.add([Proposal((0, 1)), Proposal((1, step % 2))], [Result(1.0), Result(float(step % 2))])
    assert sum(map(len, history.state_dict()["batches"])) <= 20
    assert {entry.vector: entry.evaluations for entry in history.archive()}[0, 1] == 40
    assert history.best(2) == [(0, 1), (1, 1)]


def test_a_record_ranks_by_the_mean_of_repeated_tellings() -> None:
    history = History(SearchSpace.uniform(2, 2))
    history.add([Proposal((0, 1)), Proposal((1, 1))], [Result(1.0), Result(2.0)])
    assert not history.noisy
    history.add([Proposal((1, 1)), Proposal((1, 1))], [Result(0.0), Result(0.0)])
    assert history.noisy
    assert history.best(2) == [(0, 1), (1, 1)]


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_finalists_are_as_good_where_the_level_of_rewards_drifts(name: str) -> None:
    """Every batch has a level of its own, and the levels rise: as shared weights improve and minibatches differ."""
    space, rng = SearchSpace.uniform(8, 4), np.random.default_rng(0)
    worth = rng.normal(size=(8, 4))
    heights, when = [], []
    for seed in range(4):
        strategy, asked = make_strategy(name, space, seed=seed), dict[Vector, int]()
        for step in range(60):
            proposals, level = strategy.ask(5), step / 6 + rng.normal()
            for vector in vectors(proposals):
                asked.setdefault(vector, step)
            rewards = [sum(worth[range(8), p.vector]) + level + 0.5 * rng.normal() for p in proposals]
            strategy.tell(proposals, [Result(float(reward)) for reward in rewards])
        finalists = strategy.finalists(10)
        heights += [float(sum(worth[range(8), vector])) for vector in finalists]
        when += [asked[vector] for vector in finalists]
    every = np.array(list(itertools.product(range(4), repeat=8)))
    truth = worth[range(8), every].sum(1)
    assert np.mean(heights) > truth.mean() + 1.5 * truth.std()
    assert name != "random" or 18 < np.mean(when) < 42  # not the last ones, whose level is highest


# The tool behind the documentation's tables


def test_the_tables_of_the_documentation_can_be_made() -> None:
    done = subprocess.run([sys.executable, TOOL, "--quick", "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [(row["table"], row["strategy"]) for row in result["main"]] == [
        (kind, name) for kind in ("smooth", "rugged", "noisy") for name in ("random", "evolution", "nar")
    ]
    assert all(row["evaluations"] == result["evaluations"] for row in result["main"])
    assert all(0 <= row["found"]["mean"] <= row["kept"]["mean"] + 1e-12 for row in result["main"])
    assert {row["budget"] for row in result["long"]} == {None, 0.5, 0.25}
