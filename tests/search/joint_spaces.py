"""Random spaces with the skip domain, for the tests of the strategies that know of it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from narfx.space.budget import Budget
from narfx.space.records import Skip, Slot
from narfx.space.space import SearchSpace


@st.composite
def joint_spaces(draw: st.DrawFn, *, budget: bool = True) -> SearchSpace:
    """Slots that are nodes and slots that are not, base skips, skips that cost, restricted slots, a budget or none."""
    nodes, operators = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    count = draw(st.one_of(st.just(nodes), st.integers(0, nodes)))
    cost = st.integers(0, 9).map(float)
    legal = st.sets(st.integers(0, operators - 1), min_size=1)
    names = tuple(f"op{k}" for k in range(operators))
    slots = [
        Slot(
            f"slot{i}", (), tuple(sorted(draw(legal))), {}, {"macs": draw(st.tuples(*[cost] * operators))},
            choices=names,
        )
        for i in range(count)
    ]  # fmt: skip
    pairs = [(t, j) for j in range(1, nodes + 1) for t in range(j) if draw(st.booleans())] or [(0, nodes)]
    for t, j in pairs:
        costs = {"macs": draw(st.tuples(cost, cost))}
        entries, skip = draw(st.sampled_from([(0, 1), (0, 1), (0,), (1,)])), Skip(t, j, draw(st.booleans()))
        slots.append(Slot(f"skip {t}->{j}", (), entries, {}, costs, skip, choices=skip.choices))
    space = SearchSpace(names, tuple(slots), {"macs": draw(cost)})
    if budget and draw(st.booleans()):
        room = space.most("macs") - space.least("macs")
        space = replace(space, budget=Budget({"macs": space.least("macs") + draw(st.floats(0, 1)) * room}))
    return space
