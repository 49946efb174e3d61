"""Random spaces whose slots differ in the number and the names of their choices."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import strategies as st

from narfx.space import AnySite, DeclaredSite, SearchSpace, Site, Skip, Slot, Vector
from narfx.space.budget import Budget

__all__ = ["budgets", "conv", "edge", "everything", "mixed_spaces"]

OPERATORS = ("base", "dwsep3x3", "maxpool3x3")
CANDIDATES = ("sep_conv_3x3", "none", "skip_connect", "dil_conv_5x5", "max_pool_3x3")


def conv(name: str) -> Site:
    return Site(name, 0, "conv3x3", 8, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1, False, "zeros", (8, 10, 10), (16, 10, 10))


def edge(name: str, candidates: tuple[str, ...], **changes: int) -> DeclaredSite:
    site = DeclaredSite(name, 0, "edge", candidates, ((8, 10, 10),), (8, 10, 10), "cells.py:7", 120)
    return replace(site, **changes)  # type: ignore[arg-type]


@st.composite
def slots(draw: st.DrawFn, index: int) -> Slot:
    """Operators of a convolution, candidates of an edge, two of n inputs, or a skip; some choices refused."""
    kind = draw(st.sampled_from(["operators", "edge", "pairs", "skip"]))
    skip: Skip | None = None
    sites: tuple[AnySite, ...] = ()
    choices: tuple[str, ...] = OPERATORS
    if kind == "operators":
        sites = (conv(f"conv{index}"),)
    elif kind == "edge":
        choices = CANDIDATES[: draw(st.integers(1, 5))]
        sites = (edge(f"edge{index}", choices),)
    elif kind == "pairs":
        choices = tuple(f"{a}+{b}" for a, b in itertools.combinations(range(draw(st.integers(2, 4))), 2))
    else:
        skip = Skip(index, index + 2, draw(st.booleans()), f"node {index} -> node {index + 2}")
        choices = skip.choices
    row = st.lists(st.integers(0, 50), min_size=len(choices), max_size=len(choices))
    legal = draw(st.sets(st.integers(0, len(choices) - 1))) | {0}
    refused = {k: "it does not fit" for k in range(len(choices)) if k not in legal}
    costs = {"params": tuple(draw(row)), "macs": tuple(draw(row))}
    return Slot(f"{kind}{index}", sites, tuple(sorted(legal)), refused, costs, skip, choices=choices)


@st.composite
def mixed_spaces(draw: st.DrawFn) -> SearchSpace:
    """One to four slots, some of them restricted, so that the base may not be legal."""
    made = tuple(draw(slots(index)) for index in range(draw(st.integers(1, 4))))
    space = SearchSpace(OPERATORS, made, {"params": draw(st.integers(0, 9)), "macs": draw(st.integers(0, 9))})
    narrowed = draw(st.sets(st.integers(0, len(made) - 1)))
    return space.restrict({i: draw(st.sets(st.sampled_from(made[i].legal), min_size=1)) for i in sorted(narrowed)})


@st.composite
def budgets(draw: st.DrawFn, space: SearchSpace) -> Budget:
    """No bound, one or two, which at least one legal vector meets."""
    metrics = draw(st.sets(st.sampled_from(["params", "macs"])))
    cost = space.cost(draw(st.sampled_from(everything(space))))
    return Budget({metric: cost[metric] + draw(st.integers(0, 20)) for metric in sorted(metrics)})


def everything(space: SearchSpace) -> list[Vector]:
    """All legal vectors, by brute force."""
    return list(itertools.product(*(slot.legal for slot in space.slots)))
