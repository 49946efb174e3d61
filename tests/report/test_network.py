"""The graph of a network as rows: each edge is drawn from its source's row to its target's, without a gap."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from narfx.report.network import NetworkView, network_view
from narfx.space.network_record import NetworkRecord, NodeRecord, SlotRecord


@st.composite
def graphs(draw: st.DrawFn) -> tuple[NodeRecord, ...]:
    nodes = []
    for index in range(draw(st.integers(1, 12))):
        known = st.lists(st.integers(0, index - 1), max_size=3, unique=True) if index else st.just([])
        nodes.append(NodeRecord(name=f"n{index}", kind="layer", label="", inputs=tuple(draw(known))))
    return tuple(nodes)


def ends(path: str, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a piece begins and ends."""
    numbers = [int(found) for found in re.findall(r"\d+", path)]
    first = (numbers[0], numbers[1])
    return first, (first[0], numbers[-1]) if "C" not in path else (numbers[-2], numbers[-1])


def reached(view: NetworkView, row: int) -> set[int]:
    """The rows at which the lines from a row's node arrive."""
    middle, found = view.height // 2, set()
    ways = [
        (row, place)
        for piece, _ in view.rows[row].paths
        for place in ends(piece, view.height)[1:]
        if piece.startswith(f"M{view.dot} {middle}")
    ]
    seen = set(ways)
    while ways:
        at, (x, y) = ways.pop()
        if y == view.height and at + 1 < len(view.rows):
            for piece, _ in view.rows[at + 1].paths:
                start, end = ends(piece, view.height)
                if start == (x, 0) and (at + 1, end) not in seen:
                    seen.add((at + 1, end))
                    ways.append((at + 1, end))
        elif y == middle:
            found.add(at)
    return found


@given(graphs())
def test_every_edge_arrives_and_no_other(nodes: tuple[NodeRecord, ...]) -> None:
    view = network_view(NetworkRecord(model="m", input=(1,), nodes=nodes), None, "t")
    assert view is not None
    for row in range(len(nodes)):
        assert reached(view, row) == {target for target, node in enumerate(nodes) if row in node.inputs}


def test_the_cost_of_a_slot_of_several_sites_is_told_once() -> None:
    slot = SlotRecord(
        name="block", choices=("base", "small"), legal=(0, 1), costs={"macs": (4000.0, 1000.0)}, sites=("a", "b"),
        kinds=("conv3x3", "conv3x3"), shapes=("4x8x8", "4x8x8"),
    )  # fmt: skip
    nodes = tuple(
        NodeRecord(name=n, kind="site", label="", inputs=(i - 1,) if i else ()) for i, n in enumerate(slot.sites)
    )
    view = network_view(NetworkRecord(model="m", input=(1,), slots=(slot,), nodes=nodes), (1,), "t")
    assert view is not None
    first, second = view.rows
    assert (first.operator, first.cost, first.saved.replace("\xa0", " ")) == ("small", "1 K", "−75 %")
    assert (first.share, first.base_share) == (25.0, 100.0)
    assert (second.operator, second.cost, second.share) == ("small", "with the slot above", None)
    base = network_view(NetworkRecord(model="m", input=(1,), slots=(slot,), nodes=nodes), None, "t")
    assert base is not None and base.rows[0].saved == "" and not base.rows[0].changed
