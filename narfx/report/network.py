"""The graph of a network as rows, from input to output, with the edges drawn beside them as in a list of commits.

An edge from a row to the next one is a line; any other edge leaves into a lane and comes back where it ends. All edges
from one row share a lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from narfx.report.choices import series
from narfx.report.parts import amount, plain, share
from narfx.space.network_record import NetworkRecord, NodeRecord, SlotRecord

__all__ = ["NetworkRow", "NetworkView", "network_view"]

_MOST_LANES, _STEP, _DOT, _HEIGHT = 10, 11, 10, 34


@dataclass(frozen=True)
class NetworkRow:
    """One node: the paths of its edges in SVG, and what stands beside it.

    ``share`` and ``base_share`` are the costs of the choice and of the base relative to the dearest slot, in percent.
    """

    name: str
    kind: str
    label: str
    takes: str
    paths: tuple[tuple[str, str], ...] = ()
    operator: str = ""
    colour: str = ""
    changed: bool = False
    shape: str = ""
    cost: str = ""
    saved: str = ""
    share: float | None = None
    base_share: float | None = None


@dataclass(frozen=True)
class NetworkView:
    """A network's rows, with the width of the lanes in pixels and the metric of the costs.

    ``note`` names the skips, ``folded`` says that the reader opens it.
    """

    title: str
    rows: tuple[NetworkRow, ...]
    width: int
    metric: str
    keys: tuple[tuple[str, str], ...]
    note: str = ""
    folded: bool = False
    height: int = _HEIGHT
    dot: int = _DOT


def network_view(record: NetworkRecord, entries: Sequence[int] | None, title: str) -> NetworkView | None:
    """The view of a network with one choice for each slot (the base without ``entries``); ``None`` without any node."""
    nodes = _chain(record) if record.path else record.nodes
    if not nodes:
        return None
    chosen = tuple(entries) if entries is not None else (0,) * len(record.slots)
    slots = {site: (index, slot) for index, slot in enumerate(record.slots) for site in slot.sites}
    metric = next((name for name in ("macs", *record.fixed) if record.slots and name in record.slots[0].costs), "")
    dearest = max((max(slot.costs[metric]) for slot in record.slots if metric in slot.costs), default=0) or 1
    marks = _skip_marks(record, chosen)
    edges = _edges(nodes, record, chosen)
    lanes = _lanes(edges, len(nodes))
    used = dict[str, str]()
    rows, seen = [], set[int]()
    for index, node in enumerate(nodes):
        row = NetworkRow(
            name=plain(node.name, 60),
            kind=node.kind,
            label=plain(node.label, 40),
            takes=", ".join(plain(nodes[source].name, 40) for source, target, _ in edges if target == index),
            paths=_paths(index, edges, lanes),
        )
        if node.name in slots:
            place, slot = slots[node.name]
            row = _with_slot(row, node.name, slot, chosen[place], metric, dearest, again=place in seen)
            seen.add(place)
            used[row.operator] = row.colour
        rows.append(row)
    return NetworkView(
        title=title,
        rows=tuple(rows),
        width=_DOT * 2 + _STEP * (max(lanes.values(), default=-1) + 1),
        metric={"macs": "MACs"}.get(metric, plain(metric)),
        keys=tuple(used.items()),
        note=marks,
    )


def _with_slot(
    row: NetworkRow, site: str, slot: SlotRecord, entry: int, metric: str, dearest: float, *, again: bool
) -> NetworkRow:
    place = slot.sites.index(site)
    costs = slot.costs.get(metric)
    own, base = (None, None) if costs is None else (costs[entry], costs[0])
    return NetworkRow(
        name=row.name,
        kind="site",
        label=slot.kinds[place] if place < len(slot.kinds) else "",
        takes=row.takes,
        paths=row.paths,
        operator=plain(slot.choices[entry], 32),
        colour=series(entry),
        changed=entry != 0,
        shape=slot.shapes[place] if place < len(slot.shapes) else "",
        cost="with the slot above" if again else amount(own),
        saved="" if again or own == base else share(own, base, 0),
        share=None if again or own is None else 100 * own / dearest,
        base_share=None if again or base is None else 100 * base / dearest,
    )


def _chain(record: NetworkRecord) -> tuple[NodeRecord, ...]:
    """The main path alone, where skips are searched: the outline's other edges are those of the base."""
    kinds = {node.name: (node.kind, node.label) for node in record.nodes}
    return tuple(
        NodeRecord(name=name, kind=kinds.get(name, ("layer", ""))[0], label=kinds.get(name, ("layer", ""))[1])
        for name in record.path
    )


Edge = tuple[int, int, str]


def _edges(nodes: Sequence[NodeRecord], record: NetworkRecord, chosen: Sequence[int]) -> list[Edge]:
    if not record.path:
        return [(source, target, "") for target, node in enumerate(nodes) for source in node.inputs]
    edges = [(index, index + 1, "") for index in range(len(nodes) - 1)]
    for slot, entry in zip(record.slots, chosen, strict=True):
        if slot.skip is not None and slot.skip_of_base != bool(entry) and max(slot.skip) < len(nodes):
            edges.append((*slot.skip, "new" if entry else "base"))
    return edges


def _skip_marks(record: NetworkRecord, chosen: Sequence[int]) -> str:
    skips = [(slot, entry) for slot, entry in zip(record.slots, chosen, strict=True) if slot.skip is not None]
    if not skips:
        return ""
    opened = [slot.skip for slot, entry in skips if slot.skip_of_base != bool(entry)]
    closed = [slot.skip for slot, entry in skips if slot.skip_of_base and entry]
    named = ", ".join(f"{a}→{b}" for a, b in filter(None, opened))
    gone = ", ".join(f"{a}→{b}" for a, b in filter(None, closed))
    return (
        f"The main path, its nodes counted from 0. {len(opened)} of {len(skips)} possible skips are open"
        + (f" ({named})" if named else "")
        + (f"; closed of the base's: {gone}" if gone else "")
        + "."
    )


def _lanes(edges: Sequence[Edge], rows: int) -> dict[int, int]:
    """The lane of each row that has an edge to another row than the next one; lanes do not cross as far as they go."""
    ends: dict[int, int] = {}
    for source, target, _ in edges:
        if target > source + 1:
            ends[source] = max(ends.get(source, 0), target)
    free: list[int] = []  # the row at which each lane is free again
    lanes = {}
    for source in sorted(ends):
        lane = next((index for index, until in enumerate(free) if until <= source), len(free))
        if lane >= _MOST_LANES:
            lane = _MOST_LANES - 1
        free += [0] * (lane + 1 - len(free))
        free[lane] = max(ends[source], free[lane])
        lanes[source] = lane
    return lanes


def _paths(row: int, edges: Sequence[Edge], lanes: dict[int, int]) -> tuple[tuple[str, str], ...]:
    """The pieces of edges in one row, each with its kind; (0, 0) is the row's upper left corner."""
    middle, found = _HEIGHT // 2, []
    last: dict[int, tuple[int, str]] = {}
    for source, target, kind in edges:
        if target == source + 1:
            if row == source:
                found.append((f"M{_DOT} {middle}V{_HEIGHT}", kind))
            elif row == target:
                found.append((f"M{_DOT} 0V{middle}", kind))
            continue
        x = 2 * _DOT + _STEP * lanes[source] + _STEP // 2
        if row == target:
            found.append((f"M{x} 0C{x} {middle} {x} {middle} {_DOT} {middle}", kind))
        if source <= row < target and target > last.get(source, (0, ""))[0]:
            last[source] = (target, kind)
    for source, (_, kind) in last.items():
        x = 2 * _DOT + _STEP * lanes[source] + _STEP // 2
        if row == source:
            found.append((f"M{_DOT} {middle}C{x} {middle} {x} {middle} {x} {_HEIGHT}", kind))
        else:
            found.append((f"M{x} 0V{_HEIGHT}", kind))
    return tuple(found)
