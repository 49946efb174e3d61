"""The rank correlation of rewards with stand-alone accuracy, its intervals and the verdict."""

from __future__ import annotations

import numpy as np
import pytest
import rank_agreement
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kendalltau


def judges(**rewards: list[float]) -> dict[str, np.ndarray]:
    """All judges the same ones but those given, as ``shared_proper=[...]``."""
    one = next(iter(rewards.values()))
    names = [f"{norms} {reward}" for norms in rank_agreement.NORMS for reward in rank_agreement.REWARDS] + ["macs"]
    return {name: np.array(rewards.get(name.replace(" ", "_"), one)).reshape(1, 1, -1) for name in names}


def test_a_perfect_judge_and_its_opposite() -> None:
    alone = np.linspace(0.4, 0.6, 20)
    found = rank_agreement.compare_judges(
        judges(shared_proper=list(alone), separate_proper=list(-alone)), alone, seed=0, resamples=200
    )
    assert found["judges"]["shared proper"]["tau"] == pytest.approx(1)
    assert found["judges"]["separate proper"]["tau"] == pytest.approx(-1)
    assert found["differences"]["separate proper - shared proper"]["interval"] == pytest.approx([-2, -2])
    text = rank_agreement.verdict(found)[-1]
    assert "shared judged better, more than noise" in text
    assert "neither judged better" in rank_agreement.verdict(found)[0]


def test_a_judge_that_knows_nothing_has_an_interval_around_zero() -> None:
    around = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        blind = judges(shared_quick=list(rng.random(30)))
        found = rank_agreement.compare_judges(blind, rng.random(30), seed=seed, resamples=100)
        low, high = found["judges"]["shared quick"]["interval"]
        around += low < 0 < high
    assert around >= 15


def test_equal_rewards_for_all_say_nothing() -> None:
    alone = np.arange(5.0)
    same = judges(shared_proper=[0.5] * 5, separate_proper=list(alone))
    found = rank_agreement.compare_judges(same, alone, seed=0, resamples=50)
    assert found["judges"]["shared proper"] == {"tau": None, "interval": None, "by_supernet": [None]}
    assert "nothing can be said" in rank_agreement.verdict(found)[-1]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2)), min_size=3, max_size=20))
def test_the_resampled_tau_is_scipys(rows: list[tuple[int, int, int]]) -> None:
    x, y, counts = (np.array(column) for column in zip(*rows, strict=True))
    assume(counts.sum() >= 2)
    (ours,) = rank_agreement.resampled_taus(rank_agreement.pair_signs(x), rank_agreement.pair_signs(y), counts[None])
    scipys = kendalltau(x.repeat(counts), y.repeat(counts)).statistic
    assert ours == pytest.approx(scipys, nan_ok=True)
