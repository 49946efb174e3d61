"""The joint controller: legal and feasible draws, exact probabilities, the prior of skips, and that it learns."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_spaces import joint_spaces

from narfx.errors import UsageError
from narfx.search import Proposal, Result, Strategy, make_strategy
from narfx.search.assigned_rewards import assigned_rewards, parts
from narfx.search.policies.joint_lstm import Anchor, JointController, Operator, schedule
from narfx.search.policies.lstm import Controller
from narfx.search.policies.masks import Masks
from narfx.search.policies.reinforce import part_gradients
from narfx.space.budget import Budget
from narfx.space.records import Skip, Slot, Vector
from narfx.space.space import SearchSpace

SETTINGS: dict[str, Any] = {"hidden": 8, "tanh_constant": 2.5, "temperature": 5.0, "bias_scale": 10.0}


def controller(space: SearchSpace, seed: int = 0) -> JointController:
    """One that is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    made = JointController(space, **SETTINGS, generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.5, generator=generator))
    return made


def teach(strategy: Strategy, steps: int, reward: Any, lot: int = 5) -> list[dict[str, Any]]:
    metrics = []
    for _ in range(steps):
        proposals = strategy.ask(lot)
        metrics.append(strategy.tell(proposals, [Result(reward(proposal.vector)) for proposal in proposals]))
    return metrics


# The policy


@given(joint_spaces())
def test_masks_of_a_joint_space_say_what_it_allows(space: SearchSpace) -> None:
    walk = Masks(space).walk(1)
    prefix: Vector = ()
    for _ in space.slots:
        allowed = tuple(np.flatnonzero(walk.allowed()[0]).tolist())
        assert allowed == space.allowed(prefix)
        prefix = (*prefix, allowed[-1])
        walk.take(np.array([allowed[-1]]))
    assert space.feasible(prefix)


@settings(max_examples=20)
@given(joint_spaces(), st.integers(0, 3))
def test_the_probability_of_what_was_drawn_is_recomputed(space: SearchSpace, seed: int) -> None:
    policy = controller(space, seed)
    vectors, met = policy.draw(7, torch.Generator().manual_seed(seed))
    assert all(space.validate(vector) and space.feasible(vector) for vector in vectors.tolist())
    log_p = policy(vectors)
    torch.testing.assert_close(log_p.exp(), met, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(met.sum(-1), torch.ones(7, len(space), dtype=torch.float64))
    likely, _ = policy.draw(1, None)
    assert space.feasible(likely[0].tolist())


@settings(max_examples=15)
@given(joint_spaces())
def test_the_probabilities_of_all_vectors_sum_to_one(space: SearchSpace) -> None:
    if space.size > 3000:
        space = space.restrict({index: slot.legal[:1] for index, slot in enumerate(space.slots) if slot.skip is None})
    every = [vector for vector in itertools.product(*(slot.legal for slot in space.slots)) if space.feasible(vector)]
    vectors = torch.tensor(every)
    log_p = controller(space)(vectors).detach().gather(-1, vectors[..., None])[..., 0].sum(1)
    assert math.isclose(float(log_p.exp().sum()), 1.0, rel_tol=1e-9)


def test_operators_and_skips_take_turns_where_slots_are_nodes() -> None:
    steps = schedule(SearchSpace.uniform(4, 2, skips=True))
    assert [type(step) for step in steps] == [Anchor, *[Operator, Anchor] * 4]
    assert [(step.node, step.sources) for step in steps if isinstance(step, Anchor)] == [
        (0, ()), (1, ()), (2, ()), (3, (1,)), (4, (1, 2)),
    ]  # fmt: skip


def test_operators_come_first_where_slots_are_no_nodes() -> None:
    space = SearchSpace.uniform(4, 2, skips=True)
    blocks = SearchSpace(space.operators, space.slots[2:])
    steps = schedule(blocks)
    assert [type(step) for step in steps] == [*[Operator] * 2, *[Anchor] * 5]
    assert [slot for step in steps if isinstance(step, Anchor) for slot in step.slots] == [2, 3, 4]
    assert [type(step) for step in schedule(SearchSpace.uniform(3, 2))] == [Operator] * 3


def test_a_skip_depends_on_the_operator_of_its_node_and_an_operator_on_earlier_skips() -> None:
    space = SearchSpace.uniform(5, 3, skips=True)
    skips = parts(space)["skips"]
    one, other = list(space.base), list(space.base)
    other[2] = 1  # node 3
    p = controller(space)(torch.tensor([one, other])).exp()
    differs = [not torch.allclose(p[0, index], p[1, index], atol=1e-9) for index in range(len(space))]
    assert differs == [False, False, False, True, True, *[True] * len(skips)]
    other = list(space.base)
    other[skips[0]] = 1  # into node 3
    p = controller(space)(torch.tensor([one, other])).exp()
    assert torch.equal(p[0, :3], p[1, :3])
    assert not torch.allclose(p[0, 3], p[1, 3], atol=1e-9)


def test_without_skips_the_policy_is_that_of_nar() -> None:
    space = SearchSpace.uniform(6, 3).within(Budget({"macs": 4.0}))
    joint, plain = (
        made(space, **SETTINGS, generator=torch.Generator().manual_seed(3)) for made in (JointController, Controller)
    )
    vectors, _ = plain.draw(20, torch.Generator().manual_seed(1))
    torch.testing.assert_close(joint(vectors), plain(vectors))


# The strategy


def strange(vector: Vector) -> float:
    return math.sin(sum((index + 1) * entry for index, entry in enumerate(vector)))


@settings(max_examples=10)
@given(joint_spaces(), st.data())
def test_it_resumes_exactly_at_any_moment(space: SearchSpace, data: st.DataObject) -> None:
    strategy = make_strategy("enas", space, seed=1, hidden=4)
    lots = data.draw(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=4))
    for lot, told in lots:
        proposals = strategy.ask(lot)
        assert all(space.validate(p.vector) == p.vector and space.feasible(p.vector) for p in proposals)
        if told:
            strategy.tell(proposals, [Result(strange(proposal.vector)) for proposal in proposals])
    resumed = make_strategy("enas", space, seed=2, hidden=4)
    resumed.load_state_dict(strategy.state_dict())
    for each in range(2):
        one, other = strategy.ask(3), resumed.ask(3)
        assert one == other
        results = [Result(strange(proposal.vector) + each) for proposal in one]
        assert strategy.tell(one, results) == resumed.tell(other, results)
    assert strategy.finalists(5) == resumed.finalists(5)


def test_metrics_say_what_the_policy_does() -> None:
    space = SearchSpace.uniform(5, 3, skips=True)
    metrics = teach(make_strategy("enas", space), 3, strange)[-1]
    assert [len(row) for row in metrics["probabilities"]] == [3] * 5
    assert all(math.isclose(sum(row), 1, abs_tol=1e-4) for row in metrics["probabilities"])
    assert len(metrics["open"]) == 6
    assert math.isclose(metrics["open_rate"], np.mean(metrics["open"]), abs_tol=1e-4)
    assert metrics["skip_kl"] > 0
    assert set(metrics["gradient"]) == {"operators", "skips"}
    assert min(metrics["gradient"].values()) > 0
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize("prior", [0.15, 0.8])
def test_the_prior_pulls_the_skips_where_rewards_say_nothing(prior: float) -> None:
    space = SearchSpace.uniform(6, 3, skips=True)
    skips = [s.skip and Skip(s.skip.source, s.skip.target, i % 2 == 0) for i, s in enumerate(space.slots)]
    based = [
        Slot(s.name, (), s.legal, {}, s.costs, skip, choices=skip.choices if skip else s.choices)
        for s, skip in zip(space.slots, skips, strict=True)
    ]
    strategy = make_strategy("enas", SearchSpace(space.operators, tuple(based)), skip_prior=prior)
    first, *_, last = teach(strategy, 60, lambda vector: 0.0)
    assert math.isclose(last["open_rate"], prior, abs_tol=0.03)
    assert all(math.isclose(p, prior, abs_tol=0.1) for p in last["open"])
    assert last["skip_kl"] < 0.01 * first["skip_kl"] + 1e-3
    drawn = [p.vector for p in strategy.ask(200)]
    opened = [len(make_open) for v in drawn if (make_open := SearchSpace(space.operators, tuple(based)).split(v)[1])]
    assert math.isclose(sum(opened) / (200 * 10), prior, abs_tol=0.05)


def test_without_weight_the_prior_pulls_nothing() -> None:
    strategy = make_strategy("enas", SearchSpace.uniform(6, 3, skips=True), skip_prior=0.1, skip_weight=0)
    first, *_, last = teach(strategy, 10, lambda vector: 0.0)
    assert last["open"] == first["open"]
    assert math.isclose(last["open_rate"], 0.5, abs_tol=0.05)
    assert last["grad_norm"] == 0


def test_it_beats_random_search() -> None:
    """Operators and skips each with a worth of their own: regret of the best found, as a share of the mean's."""
    space = SearchSpace.uniform(6, 3, skips=True)

    def regret(name: str, seed: int) -> float:
        rng = np.random.default_rng(seed)
        single, skip = rng.normal(size=(6, 3)), 0.5 * rng.normal(size=len(space) - 6)

        def reward(vector: Vector) -> float:
            return float(single[np.arange(6), vector[:6]].sum() + skip @ np.array(vector[6:]))

        best = single.max(1).sum() + skip.clip(min=0).sum()
        mean = single.mean(1).sum() + skip.sum() / 2
        strategy = make_strategy(name, space, seed=seed)
        teach(strategy, 30, reward)
        return float((best - max(map(reward, strategy.finalists(10)))) / (best - mean))

    pairs = [(regret("enas", seed), regret("random", seed)) for seed in range(3)]
    assert np.mean([enas for enas, _ in pairs]) < 0.4 * np.mean([random for _, random in pairs])
    assert all(enas < random for enas, random in pairs)


@pytest.mark.parametrize(
    "options",
    [{"skip_prior": 0}, {"skip_prior": 1.0}, {"skip_prior": "half"}, {"skip_weight": -0.1}, {"hidden": 0}, {"rho": 1}],
)
def test_a_wrong_option_is_a_usage_error(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))) as caught:
        make_strategy("enas", SearchSpace.uniform(3, 2, skips=True), **options)
    assert caught.value.kind == "strategy_option"


# Equations 5 to 8


@given(joint_spaces(budget=False), st.integers(1, 6), st.data())
def test_assigned_rewards_are_equations_6_to_8(space: SearchSpace, n: int, data: st.DataObject) -> None:
    vectors = [tuple(data.draw(st.sampled_from(slot.legal)) for slot in space.slots) for _ in range(n)]
    rewards = data.draw(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=n, max_size=n))
    found = assigned_rewards(space, vectors, rewards, baseline=0.25)
    slots = parts(space)
    for row, slot in zip(found["operators"], slots["operators"], strict=True):
        for k, value in enumerate(row):
            direct = sum(r for v, r in zip(vectors, rewards, strict=True) if v[slot] == k) / n
            assert math.isclose(value, direct, rel_tol=1e-4, abs_tol=1e-12)
    opened = {
        (j, t): sum(r for v, r in zip(vectors, rewards, strict=True) if (t, j) in (space.split(v)[1] or ())) / n
        for t, j in ((s.skip.source, s.skip.target) for s in space.slots if s.skip)
    }
    expected = [opened[pair] for pair in sorted(opened)]
    flat = [value for row in found["skips"]["open"] for value in row]
    assert np.allclose(flat, expected, rtol=1e-4, atol=1e-12)
    assert found["skips"]["targets"] == sorted({j for j, _ in opened})

    samples = [
        np.var([((t, j) in (space.split(v)[1] or ())) * r if b else ((t, j) not in (space.split(v)[1] or ())) * r
                for v, r in zip(vectors, rewards, strict=True)])
        for j, t in opened for b in (0, 1)
    ]  # fmt: skip
    assert math.isclose(found["variance"]["skips"]["samples"], np.mean(samples), rel_tol=1e-4, abs_tol=1e-12)
    mean = sum(rewards) / n
    states = [
        [np.mean([value if b else mean - value for (j, _), value in opened.items() if j == depth]) for b in (0, 1)]
        for depth in sorted({j for j, _ in opened})
    ]
    assert math.isclose(found["variance"]["skips"]["depth"], np.var(states, axis=0).mean(), rel_tol=1e-4, abs_tol=1e-12)


def test_variances_of_operators() -> None:
    space = SearchSpace.uniform(2, 2)
    found = assigned_rewards(space, [(0, 1), (1, 1)], [1.0, 3.0], baseline=2.0)
    assert found["operators"] == [[0.5, 1.5], [0.0, 2.0]]
    assert "skips" not in found
    # samples assign (1, 0), (0, 3), (0, 0), (1, 3) to the four choices; slots differ by 0.5 in either operator
    assert found["variance"] == {"operators": {"mean": 1.0, "samples": (0.25 + 2.25 + 0 + 1) / 4, "depth": 0.0625}}
    # with R - b: (-1, 0), (0, 1), (0, 0), (-1, 1)
    assert found["advantage_variance"]["operators"]["samples"] == (0.25 + 0.25 + 0 + 1) / 4


def test_reinforce_is_the_cross_entropy_weighted_by_assigned_rewards() -> None:
    """Equations 1 and 5 have one gradient, where the policy is a product of its decisions."""
    space = SearchSpace.uniform(5, 4, skips=True)
    policy = controller(space, seed=4)
    with torch.no_grad():
        for weight in policy.lstm.parameters():
            weight.zero_()  # what came before is forgotten: the biases alone decide
    vectors, _ = policy.draw(6, torch.Generator().manual_seed(0))
    rewards = torch.tensor([0.3, 0.9, 0.1, 0.7, 0.2, 0.55], dtype=torch.float64)
    biases = [policy.bias, policy.skip_bias]

    log_p = policy(vectors)
    taken = log_p.gather(-1, vectors[..., None])[..., 0]
    reinforce = torch.autograd.grad((rewards[:, None] * taken).sum(1).mean(), biases)

    assigned = assigned_rewards(space, [tuple(v) for v in vectors.tolist()], rewards.tolist(), 0.0)
    log_p = policy(vectors[:1])[0]
    opened = torch.tensor([x for row in assigned["skips"]["open"] for x in row], dtype=torch.float64)
    weighted = (torch.tensor(assigned["operators"], dtype=torch.float64) * log_p[:5]).sum()
    weighted = weighted + (opened * log_p[5:, 1]).sum() + ((rewards.mean() - opened) * log_p[5:, 0]).sum()
    torch.testing.assert_close(torch.autograd.grad(weighted, biases), reinforce, rtol=1e-3, atol=1e-4)


def test_the_gradients_of_the_parts_are_those_of_their_terms() -> None:
    space = SearchSpace.uniform(4, 3, skips=True)
    policy = controller(space)
    vectors, _ = policy.draw(3, torch.Generator().manual_seed(0))
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def terms() -> torch.Tensor:
        log_p: torch.Tensor = policy(vectors)
        return advantages[:, None] * log_p.gather(-1, vectors[..., None])[..., 0]

    found = part_gradients(policy, terms(), parts(space))
    for part, slots in parts(space).items():
        policy.zero_grad()
        terms()[:, slots].sum(1).mean().backward()
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in policy.parameters() if p.grad is not None))
        assert math.isclose(found[part], norm, rel_tol=1e-9)


# The space


@given(joint_spaces(budget=False), st.data())
def test_split_and_join_undo_each_other(space: SearchSpace, data: st.DataObject) -> None:
    vector = tuple(data.draw(st.sampled_from(slot.legal)) for slot in space.slots)
    operators, skips = space.split(vector)
    assert skips is not None
    assert space.join(operators, skips) == vector
    assert space.join(operators, reversed(skips)) == vector
    assert space.validate(vector) == vector
    assert len(operators) + len(space.skip_slots) == len(space)


def test_an_entry_that_no_skip_has_is_refused() -> None:
    space = SearchSpace.uniform(3, 1, skips=True)
    assert space.validate((0, 0, 0, 1)) == (0, 0, 0, 1)
    with pytest.raises(UsageError, match=r"entry 2 at slot 3 \(skip 1->3\)") as caught:
        make_strategy("enas", space).tell([Proposal((0, 0, 0, 2))], [Result(1.0)])
    assert caught.value.kind == "vector_index"
