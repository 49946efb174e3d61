"""Width and depth of cells, random cells, and the widest and narrowest variant of a genotype (arXiv 1909.09569).

Every intermediate node counts as connected to the output. The depth of a cell is the number of edges on its longest
path from an input to the output. Its width is the sum over the intermediate nodes of the share of their edges that come
from an input of the cell, in units of c, the channels of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from narfx.errors import UsageError
from narfx.space.genotype import CELL_OPERATORS, Edge, Genotype

__all__ = ["genotype_shape", "narrowest", "random_genotype", "shape_of", "widest"]

K = TypeVar("K", bound=Hashable)

_INPUTS = (0, 1)
_DRAWN = CELL_OPERATORS[1:8]
"""What ``random_genotype`` draws operators from: those of DARTS without ``none``."""


def shape_of(sources: Mapping[K, Sequence[K]], channels: Mapping[K, float] | None = None) -> dict[str, float]:
    """``{"width", "depth"}`` of a cell.

    Args:
        sources: For each intermediate node, in an order in which none reads a later one, what its edges start from;
            what is not a node itself is an input of the cell.
        channels: The channels of each node in units of c; default: 1.
    """
    depths: dict[K, int] = {}
    width = 0.0
    for node, read in sources.items():
        outer = [source for source in read if source not in sources]
        share = len(outer) / len(read) if read else 0.0
        width += share * (1.0 if channels is None else channels[node])
        depths[node] = 1 + max((depths[source] for source in read if source in depths), default=0)
    return {"width": round(width, 6), "depth": 1 + max(depths.values(), default=0)}


def genotype_shape(genotype: Genotype) -> dict[str, dict[str, float]]:
    """``{"normal": {"width", "depth"}, "reduce": {...}}``."""
    return {kind: shape_of(_sources(genotype.edges(kind))) for kind in ("normal", "reduce")}


def _sources(edges: Sequence[Edge]) -> dict[int, list[int]]:
    nodes = range(len(edges) // 2)
    return {2 + node: [source for _, source in edges[2 * node : 2 * node + 2]] for node in nodes}


def random_genotype(genotype: Genotype, drawn: Literal["connections", "operators"], seed: int) -> Genotype:
    """A random variant of a genotype, by one of the two generators of the paper.

    Args:
        genotype: Where the rest comes from.
        drawn: ``connections``: each edge starts at a node that is uniform over the earlier ones, and the operators
            stay. ``operators``: each operator is uniform over the seven of DARTS other than ``none``, and the
            connections stay.
        seed: Decides the draw.

    Raises:
        UsageError: ``drawn`` is something else, or ``seed`` is negative.
    """
    if drawn not in ("connections", "operators"):
        raise UsageError(f"random cells have random connections or operators, not {drawn!r}", kind="bad_option")
    if seed < 0:
        raise UsageError(f"a seed is a whole number from 0, not {seed}", where="--seed", kind="bad_option")
    rng = np.random.default_rng(seed)

    def edge(index: int, before: Edge) -> Edge:
        operator, source = before
        if drawn == "connections":
            return operator, int(rng.integers(2 + index // 2))
        return _DRAWN[int(rng.integers(len(_DRAWN)))], source

    return _with(genotype, {k: [edge(i, e) for i, e in enumerate(genotype.edges(k))] for k in ("normal", "reduce")})


def widest(genotype: Genotype) -> Genotype:
    """The widest, shallowest variant: every edge starts at an input, and the operators stay.

    An edge that starts at an input stays as it is; another one goes to the input that the node does not read yet. The
    width is then c times the number of nodes, the depth 2.
    """
    return _rewired(genotype, _to_inputs)


def narrowest(genotype: Genotype) -> Genotype:
    """The narrowest, deepest variant: node 2 reads both inputs, every other node reads the one before it twice."""
    return _rewired(genotype, lambda node, sources: (0, 1) if node == 2 else (node - 1, node - 1))


def _to_inputs(node: int, sources: tuple[int, int]) -> tuple[int, int]:
    first, second = sources
    if first not in _INPUTS:
        first = 1 - second if second in _INPUTS else 0
    return first, second if second in _INPUTS else 1 - first


def _rewired(genotype: Genotype, rule: Callable[[int, tuple[int, int]], tuple[int, int]]) -> Genotype:
    cells: dict[str, list[Edge]] = {}
    for kind in ("normal", "reduce"):
        edges = genotype.edges(kind)
        cells[kind] = []
        for index in range(0, len(edges), 2):
            (one, a), (two, b) = edges[index : index + 2]
            first, second = rule(2 + index // 2, (a, b))
            cells[kind] += [(one, first), (two, second)]
    return _with(genotype, cells)


def _with(genotype: Genotype, cells: Mapping[str, Sequence[Edge]]) -> Genotype:
    return Genotype(
        normal=tuple(cells["normal"]),
        normal_concat=genotype.normal_concat,
        reduce=tuple(cells["reduce"]),
        reduce_concat=genotype.reduce_concat,
    )
