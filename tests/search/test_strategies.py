"""What every strategy promises."""

from __future__ import annotations

import io
import itertools
import json
import math
import sys
from typing import Any

import numpy as np
import pytest
import strategy_tables
import torch
from taught import SPACES, earned, teach, vectors

from narfx.errors import RunError, UsageError
from narfx.search import Proposal, Result, make_strategy, strategy_names
from narfx.space.budget import Budget
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

NAMES = ("alternating", "ddas", "enas", "evolution", "nar", "nsga2", "random")


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
def test_any_range_of_the_reward_will_do(name: str) -> None:
    def asked(scale: float, offset: float) -> list[Vector]:
        strategy = make_strategy(name, SPACES["budget"](), seed=2)
        teach(strategy, 12, reward=lambda vector: offset + scale * earned(vector))
        return vectors(strategy.ask(20))

    plain = asked(1.0, 0.0)
    for scale, offset in ((1e-3, 0.0), (1.0, 1e6), (250.0, -3e4)):
        assert asked(scale, offset) == plain, (scale, offset)


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
    with pytest.raises(UsageError, match="evolution, gdas, nar, nsga2, random") as caught:
        make_strategy("annealing", SPACES["free"]())
    assert caught.value.kind == "unknown_strategy"


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


def test_the_tables_of_the_documentation_can_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["strategy_tables.py", "--quick", "--json"])
    strategy_tables.main()
    torch.set_num_threads(threads)
    result = json.loads(capsys.readouterr().out)
    assert [(row["table"], row["strategy"]) for row in result["main"]] == [
        (kind, name) for kind in ("smooth", "rugged", "noisy") for name in ("random", "evolution", "nar")
    ]
    assert all(row["evaluations"] == result["evaluations"] for row in result["main"])
    assert all(0 <= row["found"]["mean"] <= row["kept"]["mean"] + 1e-12 for row in result["main"])
    assert {row["budget"] for row in result["long"]} == {None, 0.5, 0.25}
