"""Small search spaces, and all of their vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import strategies as st

from narfx.space.records import Site, Slot, Vector
from narfx.space.space import SearchSpace

OPERATORS = ("base", "dwsep3x3", "maxpool3x3", "avgpool3x3")


def site(name: str = "layer1.0.conv1", **changes: object) -> Site:
    values: dict[str, object] = {
        "target": name, "occurrence": 0, "kind": "conv3x3", "in_channels": 8, "out_channels": 16, "kernel": (3, 3),
        "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "bias": False, "padding_mode": "zeros",
        "input_shape": (8, 10, 10), "output_shape": (16, 10, 10),
    }  # fmt: skip
    return Site(**{**values, **changes})  # type: ignore[arg-type]


def slot(name: str, legal: Sequence[int], macs: Sequence[float], params: Sequence[float] | None = None) -> Slot:
    costs = {"macs": tuple(macs), "params": tuple(params or macs)}
    refused = {k: "it has more parameters" for k in range(len(macs)) if k not in legal}
    return Slot(name, (site(name),), tuple(legal), refused, costs, choices=OPERATORS[: len(macs)])


def three_slots() -> SearchSpace:
    """Three slots; the second refuses operator 1; parameters and MACs rank the operators differently."""
    return SearchSpace(
        OPERATORS,
        (
            slot("a", (0, 1, 2, 3), (100, 40, 30, 31), (10, 30, 20, 25)),
            slot("b", (0, 2, 3), (200, 80, 60, 61), (90, 95, 50, 60)),
            slot("c", (0, 1, 2, 3), (50, 20, 15, 17), (40, 10, 12, 14)),
        ),
        {"macs": 1000, "params": 500},
    )


@st.composite
def spaces(draw: st.DrawFn, most_slots: int = 4, whole: bool = False) -> SearchSpace:
    """Small spaces of unequal costs, some operators illegal, costs whole numbers or not."""
    operators = draw(st.integers(2, 4))
    number = st.integers(0, 10**6) if whole else st.integers(0, 10**6) | st.floats(0, 1e6, allow_subnormal=False)

    def one(index: int) -> Slot:
        legal = draw(st.sets(st.integers(1, operators - 1))) | {0}
        costs = st.lists(number, min_size=operators, max_size=operators)
        return slot(f"s{index}", sorted(legal), draw(costs), draw(costs))

    slots = tuple(one(index) for index in range(draw(st.integers(1, most_slots))))
    return SearchSpace(OPERATORS[:operators], slots, {"macs": draw(number), "params": draw(number)})


def vectors(space: SearchSpace) -> list[Vector]:
    return list(itertools.product(*(slot.legal for slot in space.slots)))
