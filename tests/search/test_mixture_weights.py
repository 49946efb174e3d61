"""Architecture weights: what a mixture gives to each choice, draws, prices, and the vectors at the end."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from joint_spaces import joint_spaces

from narfx.errors import UsageError
from narfx.search.mixture.price import BudgetPrice
from narfx.search.mixture.strategy import MixtureStrategy
from narfx.search.mixture.weights import ArchitectureWeights
from narfx.search.registry import build_strategy
from narfx.space.budget import Budget
from narfx.space.records import Slot
from narfx.space.space import SearchSpace

NAMES = ("darts", "gdas", "stacnas")


def weights(space: SearchSpace, seed: int, scale: float = 3.0) -> ArchitectureWeights:
    found = ArchitectureWeights(space, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found.values.copy_(scale * torch.randn(found.values.shape, generator=torch.Generator().manual_seed(seed)))
    return found


def with_weights(name: str, space: SearchSpace, values: torch.Tensor) -> MixtureStrategy:
    """A strategy that has learnt these architecture weights."""
    strategy = build_strategy(name, space)
    assert isinstance(strategy, MixtureStrategy)
    strategy.load_state_dict({**strategy.state_dict(), "alphas": values})
    return strategy


@given(joint_spaces(), st.integers(0, 99))
def test_probabilities_sum_to_one_over_what_is_legal(space: SearchSpace, seed: int) -> None:
    rows = weights(space, seed).softmax_rows()
    for slot, row in zip(space.slots, rows, strict=True):
        values = row.tolist()
        assert len(values) == len(slot.choices)
        assert sum(values[k] for k in slot.legal) == pytest.approx(1, abs=1e-6)
        assert all(values[k] > 0 for k in slot.legal)
        assert all(value == 0 for k, value in enumerate(values) if k not in slot.legal)


@given(joint_spaces(), st.integers(0, 99), st.floats(0.05, 20))
def test_a_draw_computes_one_legal_choice_a_slot_with_weight_one(space: SearchSpace, seed: int, tau: float) -> None:
    found = weights(space, seed)
    for slot, row in zip(space.slots, found.drawn_rows(tau), strict=True):
        (drawn,) = [k for k, weight in enumerate(row) if isinstance(weight, torch.Tensor)]
        assert drawn in slot.legal and torch.as_tensor(row[drawn]).equal(torch.tensor(1.0))
        assert all(weight == 0.0 for k, weight in enumerate(row) if k != drawn)


def test_draws_come_as_often_as_their_probabilities_say() -> None:
    space = SearchSpace.uniform(1, 3)
    found = weights(space, 0)
    with torch.no_grad():
        found.values.copy_(torch.tensor([[0.0, 1.0, -1.0]]))
    counts = [0, 0, 0]
    for _ in range(4000):
        counts[[isinstance(w, torch.Tensor) for w in found.drawn_rows(5.0)[0]].index(True)] += 1
    for share, p in zip(counts, found.probabilities()[0].tolist(), strict=True):
        assert share / 4000 == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))


def test_the_gradient_of_a_draw_is_that_of_its_soft_weight() -> None:
    """Straight-through: d h_k / d α = d z_k / d α with z = softmax((log p + g) / τ)."""
    space = SearchSpace.uniform(1, 3)
    found = weights(space, 5)
    (row,) = found.drawn_rows(2.0)
    k = [isinstance(weight, torch.Tensor) for weight in row].index(True)
    (gradient,) = torch.autograd.grad(torch.as_tensor(row[k]), found.values)
    generator = torch.Generator().manual_seed(5)
    ArchitectureWeights(space, generator)  # so that the noise is the same
    noise = -(-torch.rand(1, 3, generator=generator, dtype=torch.float64).log()).log()
    alphas = found.values.detach().double().requires_grad_()
    soft = ((alphas.log_softmax(1) + noise) / 2.0).softmax(1)
    assert int(soft.argmax()) == k
    (expected,) = torch.autograd.grad(soft[0, k], alphas)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)


@given(joint_spaces(), st.integers(0, 99), st.sampled_from(NAMES))
def test_the_finalists_meet_any_budget(space: SearchSpace, seed: int, name: str) -> None:
    if name != "stacnas" and all(len(slot.legal) == 1 for slot in space.slots):
        with pytest.raises(UsageError, match="no slot of this space has two legal choices"):
            build_strategy(name, space)
        return
    known = weights(space, seed)
    found = with_weights(name, space, known.values.detach()).finalists(4)
    assert found and len(set(found)) == len(found)
    for vector in found:
        assert space.validate(vector) == vector and space.feasible(vector)
    log_p = known.log_probabilities().tolist()
    scores = [sum(row[k] for row, k in zip(log_p, vector, strict=True)) for vector in found]
    assert scores == sorted(scores, reverse=True) or max(
        a - b for a, b in zip(sorted(scores, reverse=True), scores, strict=True)
    ) == pytest.approx(0, abs=1e-5)
    best = tuple(max(slot.legal, key=lambda k: row[k]) for slot, row in zip(space.slots, log_p, strict=True))
    if space.feasible(best):
        assert found[0] == best


def test_none_is_kept_only_where_the_budget_needs_it() -> None:
    slots = tuple(
        Slot(f"normal {i}->2", (), (0, 1, 2), {}, {"macs": (8.0, 0.0, 3.0)}, choices=("sep", "none", "pool"))
        for i in range(2)
    )
    space = SearchSpace((), slots)
    for bound, expected in ((16, (0, 0)), (11, (0, 2)), (6, (2, 2)), (3, (1, 2))):
        strategy = with_weights(
            "darts", space.within(Budget({"macs": bound})), torch.tensor([[1.0, 5.0, 0.0], [0.5, 4.0, 0.0]])
        )
        assert strategy.finalists(1)[0] == expected


def test_a_price_brings_the_expected_cost_below_the_bound() -> None:
    space = SearchSpace.uniform(6, 4).within(Budget({"macs": 1.5}))
    found, price = weights(space, 1, 0.01), BudgetPrice(space, 0.05)
    wished = torch.zeros(found.values.shape)
    wished[:, 0] = 0.3  # the loss alone would have the dearest choice everywhere
    optimizer = torch.optim.Adam([found.values], lr=0.05)
    costs, prices = [], []
    for _ in range(400):
        optimizer.zero_grad()
        loss = -(found.probabilities() * wished).sum()
        priced = price.loss(found.probabilities())
        (loss if priced is None else loss + priced).backward()
        optimizer.step()
        price.step(found.probabilities())
        prices.append(price.prices["macs"])
        costs.append(float(price.expected(found.probabilities().detach())["macs"]))
    assert costs[0] > 2.9 and sum(costs[-50:]) / 50 < 1.6
    assert max(prices) > 0.1 and min(prices) >= 0
    assert price.described(found.probabilities())["expected"]["macs"] == pytest.approx(costs[-1], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("darts", {"order": "third"}), ("darts", {"lr": 0}), ("darts", {"lr": 3e38}),
        ("gdas", {"tau_min": 0}), ("gdas", {"record": 0}),
        ("stacnas", {"stages": 3}), ("darts", {"tau_max": 1}), ("stacnas", {"weight_decay": -1}),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="refuses its options"):
        build_strategy(name, SearchSpace.uniform(3, 2), **options)
