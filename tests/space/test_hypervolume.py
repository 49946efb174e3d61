"""The hypervolume that a set of results dominates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narfx.space.front import front
from narfx.space.hypervolume import hypervolume

REFERENCE = {"accuracy": 0.0, "macs": 10.0, "params": 5.0}
NUMBERS = st.tuples(st.integers(0, 4), st.integers(0, 12), st.integers(0, 6))


def records(rows: list[tuple[int, int, int]]) -> list[dict[str, object]]:
    return [{"vector": [n], "accuracy": a / 4, "macs": b, "params": c} for n, (a, b, c) in enumerate(rows)]


def test_two_points_by_hand() -> None:
    found: list[dict[str, float | None]] = [
        {"accuracy": 0.9, "macs": 6},
        {"accuracy": 0.5, "macs": 2},
        {"accuracy": None, "macs": 1},
    ]
    assert hypervolume(found, {"accuracy": 0.0, "macs": 10}) == pytest.approx(0.9 * 0.4 + 0.5 * 0.4)
    assert hypervolume(found, {"accuracy": 0.6, "macs": 10}) == pytest.approx(0.3 * 0.4)
    assert hypervolume([], {"accuracy": 0.0, "macs": 10}) == 0


@given(st.lists(NUMBERS, max_size=8))
def test_it_is_the_share_of_cells_that_a_point_dominates(rows: list[tuple[int, int, int]]) -> None:
    grid = np.zeros((4, 10, 5), dtype=bool)  # one cell for each quarter of accuracy, each MAC, each parameter
    for accuracy, macs, params in rows:
        grid[:accuracy, : max(10 - macs, 0), : max(5 - params, 0)] = True
    assert hypervolume(records(rows), REFERENCE) == pytest.approx(grid.mean())
    assert hypervolume(front(records(rows)), REFERENCE) == pytest.approx(grid.mean())


@pytest.mark.parametrize("reference", [{}, {"accuracy": 0.0, "macs": 0.0}])
def test_a_reference_without_extent_is_refused(reference: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="reference"):
        hypervolume([], reference)
