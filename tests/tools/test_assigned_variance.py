"""The tool that measures how assigned rewards vary over seeds, on rewards whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from assigned_variance import variances

from narfx.space import SearchSpace

SPACE = SearchSpace.uniform(5, 3)
SEEDS, MOST = 400, 20


def test_independent_samples_vary_as_one_over_n_and_what_they_share_stays() -> None:
    rng = np.random.default_rng(0)
    vectors = [[tuple(map(int, row)) for row in rng.integers(0, 3, (MOST, 5))] for _ in range(SEEDS)]
    alone = 0.5 + 0.1 * rng.standard_normal((SEEDS, MOST))
    found = variances(SPACE, vectors, alone, (1, 5, MOST))
    for index in range(2):
        for n in (5, MOST):
            assert found[n][index] * n == pytest.approx(found[1][index], rel=0.15)
    # A constant reward varies only by what was drawn: p (1 - p) / N at one of three choices.
    constant = variances(SPACE, vectors, np.ones((SEEDS, MOST)), (1, MOST))
    assert constant[1][0] == pytest.approx(2 / 9, rel=0.1)
    assert constant[MOST][0] == pytest.approx(2 / 9 / MOST, rel=0.1)
    assert constant[MOST][1] == 0
    # What all samples of a seed have in common does not average out.
    shared = variances(SPACE, vectors, alone + 0.1 * rng.standard_normal((SEEDS, 1)), (1, MOST))
    assert shared[MOST][1] * MOST > 2 * shared[1][1]
