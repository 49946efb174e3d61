"""A kept vector far below the budget is said, with the best one near it."""

from __future__ import annotations

from typing import Any

import pytest

from narfx.search.near_budget import below_budget, near_budget
from narfx.search.strategy import Evaluated, Result
from narfx.space.budget import Budget

BUDGET = Budget({"macs": 100.0, "params": 1000.0})


def record(accuracy: float, macs: float, params: float = 10.0) -> dict[str, Any]:
    return {"vector": [int(macs)], "accuracy": accuracy, "macs": macs, "params": params}


DEAREST = record(0.7, 90.0)


def nothing() -> dict[str, Any] | None:
    return None


def test_a_vector_near_any_bound_or_without_one_is_not_far_below() -> None:
    assert below_budget(record(0.5, 95.0), [], DEAREST, BUDGET, "accuracy", nothing) is None
    assert below_budget(record(0.5, 20.0, 960.0), [], DEAREST, BUDGET, "accuracy", nothing) is None
    assert below_budget(record(0.5, 20.0), [], DEAREST, Budget(), "accuracy", nothing) is None


def test_the_best_finalist_near_the_budget_is_named() -> None:
    best, near = record(0.9, 60.0), [record(0.7, 96.0), record(0.8, 98.0), record(0.85, 80.0)]
    found = below_budget(best, [best, *near], DEAREST, BUDGET, "identification_accuracy", pytest.fail)
    assert found is not None and (found["used"], found["nearest"]) == (0.6, near[1])
    assert found["message"] == (
        "the kept vector is 40% below the budget (60 of 100 macs, 10 of 1,000 params); the best one within 5 % of it "
        "has identification accuracy 0.8000 against 0.9000: [98]"
    )


def test_without_one_the_best_that_the_strategy_tried_is_evaluated() -> None:
    best = record(0.9, 60.0)
    other = record(0.6, 97.0)
    found = below_budget(best, [best], DEAREST, BUDGET, "accuracy", lambda: other)
    assert found is not None and (found["nearest"], found["origin"]) == (other, "tried")
    found = below_budget(best, [best], DEAREST, BUDGET, "accuracy", nothing)
    assert found is not None and (found["nearest"], found["origin"]) == (DEAREST, "most_macs")
    assert found["message"].endswith(
        "the search tried none within 5 % of it; the one of most MACs within it (90 of 100 macs, 10 of 1,000 params), "
        "which was evaluated, has accuracy 0.7000 against 0.9000: [90]"
    )
    found = below_budget(best, [best], best, BUDGET, "accuracy", nothing)
    assert found is not None and found["nearest"] is None
    assert found["message"].endswith("no vector within the budget has more MACs than the kept one")
    tried = [(96.0, 0.4), (99.0, 0.6), (50.0, 0.9), (120.0, 0.9)]
    archive = [Evaluated((i,), Result(reward, {"macs": macs, "params": 1.0})) for i, (macs, reward) in enumerate(tried)]
    assert near_budget(archive, BUDGET) == (1,)
    assert near_budget(archive[2:], BUDGET) is None and near_budget(archive, Budget()) is None
