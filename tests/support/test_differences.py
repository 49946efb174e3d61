"""Differences with standard errors: what is told apart, and how often by chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from narfx.support.differences import over_images, over_seeds


def test_a_difference_over_images_is_paired() -> None:
    own = np.array([True] * 60 + [False] * 40)
    other = np.array([True] * 40 + [False] * 60)  # wrong on 20 that the first has right, never the other way round
    found = over_images(own, [other])
    mcnemar = math.sqrt(20 - 20**2 / 100) / 100
    assert found.value == pytest.approx(0.2) and found.standard_error == pytest.approx(mcnemar, rel=0.05)
    assert found.verdict == "better" and over_images(other, [own]).verdict == "worse"
    assert found.than("that one").startswith("better by 0.2000 ± 0.04")
    assert over_images(own, [own[::-1]]).standard_error > found.standard_error  # type: ignore[operator]
    assert found.to_json() == {
        "difference": found.value, "standard_error": found.standard_error, "verdict": "better",
    }  # fmt: skip


def test_few_or_equal_images_prove_nothing() -> None:
    right, wrong = np.ones(3, dtype=bool), np.zeros(3, dtype=bool)
    assert over_images(right, [wrong]).verdict == "not told apart"
    same = over_images(right, [right])
    assert same.verdict == "not told apart" and same.standard_error
    assert "not told apart from it (+0.0000" in same.than("it")


@pytest.mark.parametrize("others", [1, 8])
def test_equal_networks_are_seldom_told_apart(others: int) -> None:
    rng = np.random.default_rng(others)
    told = 0
    for _ in range(400):
        hard = rng.random(200)  # what one network has wrong, another has wrong more often
        right = rng.random((others + 1, 200)) > hard
        told += over_images(right[0], list(right[1:])).verdict != "not told apart"
    assert told < 0.08 * 400


def test_a_difference_over_seeds_counts_the_spread_of_the_others() -> None:
    own, base = [0.90, 0.92, 0.91], [0.80, 0.82, 0.81]
    assert over_seeds(own, [base]).verdict == "better"
    lucky = [[0.5, 0.5, 0.5], [0.9, 0.9, 0.9], [0.91, 0.92, 0.93]]
    found = over_seeds(own, lucky)  # above their mean, but they differ more than that
    assert found.value > 0.1 and found.verdict == "not told apart"
    one = over_seeds([0.9], [[0.5], [0.6]])
    assert one.value == pytest.approx(0.35) and one.standard_error is None and one.verdict == "not told apart"
    assert "no standard error" in one.than("others")
