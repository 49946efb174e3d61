"""One point of a front: by number, by a bound, the knee; and the reference point of its hypervolume."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.picks import knee, pick, reference_point

BASE = {"macs": 1000.0, "params": 50.0}
STEPS = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=8)


def rising(steps: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """A front over MACs: each step costs more, and is more accurate."""
    records, macs, accuracy = [], 100, 50
    for more, better in steps:
        records.append({"accuracy": accuracy / 1000, "macs": float(macs), "params": 10.0})
        macs, accuracy = macs + more, accuracy + better
    return records


@given(STEPS, st.floats(0.05, 1.2))
def test_a_bound_picks_the_most_accurate_within_it(steps: list[tuple[int, int]], share: float) -> None:
    records = rising(steps)
    within = [record for record in records if record["macs"] <= float(f"{share:.4f}") * BASE["macs"]]
    text = f"macs<={share:.4f}x"
    if within:
        assert records[pick(text, records, BASE, ("macs",))] == max(within, key=lambda record: record["accuracy"])
    else:
        with pytest.raises(InfeasibleBudgetError, match=r"the nearest is point 1 \(MACs 100, bound") as caught:
            pick(text, records, BASE, ("macs",))
        assert caught.value.exit_code == 4 and caught.value.kind == "no_point"


def test_the_nearest_of_several_bounds_breaks_them_least() -> None:
    records = [
        {"accuracy": 0.5, "macs": 100.0, "params": 40.0},
        {"accuracy": 0.6, "macs": 300.0, "params": 12.0},
    ]
    with pytest.raises(
        InfeasibleBudgetError, match=r"nearest is point 2 \(MACs 300, bound 200; parameters 12, bound 10"
    ):
        pick("macs<=0.2x,params<=0.2x", records, BASE, ("macs", "params"))


@given(STEPS.filter(lambda steps: len(steps) > 2))
def test_the_knee_is_farthest_above_the_chord(steps: list[tuple[int, int]]) -> None:
    records = rising(steps)
    first, last = records[0], records[-1]

    def above(record: dict[str, Any]) -> Any:
        """The distance from the chord, in units of the two ranges; positive above it."""
        x = (record["macs"] - first["macs"]) / (last["macs"] - first["macs"])
        y = (record["accuracy"] - first["accuracy"]) / (last["accuracy"] - first["accuracy"])
        return (y - x) / math.sqrt(2)

    heights = [above(record) for record in records]
    assume(not 0 < max(heights) < 1e-6)
    if max(heights) > 0:
        assert heights[knee(records, ("macs",))] == pytest.approx(max(heights))
        # A cost that is the same everywhere says nothing.
        assert knee(records, ("macs", "params")) == knee(records, ("macs",)) == pick("knee", records, BASE, ("macs",))
    else:
        with pytest.raises(UsageError, match="has no knee") as caught:
            knee(records, ("macs",))
        assert caught.value.kind == "no_knee"


def test_the_knee_of_one_point_is_that_point_and_two_have_none() -> None:
    assert knee(rising([(1, 1)]), ("macs",)) == 0
    with pytest.raises(UsageError, match="front of 2 points has no knee"):
        pick("knee", rising([(1, 1), (5, 5)]), BASE, ("macs",))
    # One accuracy for all, over two costs: nothing is gained by paying more.
    level = [{"accuracy": 0.5, "macs": 1.0 + n, "params": 9.0 - n} for n in range(3)]
    with pytest.raises(UsageError, match="has no knee"):
        knee(level, ("macs", "params"))


def test_numbers_count_from_one() -> None:
    records = rising([(1, 1)] * 3)
    assert [pick(str(n), records, BASE, ("macs",)) for n in (1, 2, 3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", "no_such_point"), ("4", "no_such_point"), ("best", "pick_syntax"), ("-1", "pick_syntax"),
        ("speed<=2", "unknown_metric"), ("macs<=", "budget_syntax"), ("", "pick_syntax"), ("²", "pick_syntax"),
    ],
)  # fmt: skip
def test_what_names_no_point_is_refused(text: str, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        pick(text, rising([(1, 1)] * 3), BASE, ("macs",))
    assert caught.value.kind == kind


def test_the_reference_point_is_the_base_without_any_accuracy_or_what_is_asked_for() -> None:
    assert reference_point(None, BASE, ("macs",)) == {"accuracy": 0.0, "macs": 1000.0}
    asked = reference_point("accuracy=0.1, params=2x", BASE, ("macs", "params"))
    assert asked == {"accuracy": 0.1, "macs": 1000.0, "params": 100.0}
    assert reference_point("macs=2K", BASE, ("macs",))["macs"] == 2000.0


@pytest.mark.parametrize(
    "text", ["params=1x", "macs", "accuracy=2", "accuracy=nan", "accuracy=x", "macs=0x", "macs=no"]
)
def test_another_reference_point_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"reference|budget"):
        reference_point(text, BASE, ("macs",))


def test_a_base_that_costs_nothing_is_no_reference() -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        reference_point(None, {"macs": 0.0}, ("macs",))
