"""Find what stands between the nodes of cells and of residual blocks, for their width and depth.

The edges of a cell are the sites that declare candidates. A node of the cell is the sum of edges, or one edge alone; a
sum may be written with ``+``, ``sum`` or a stack. The sites of one slot stand once in each cell, so where their paths
differ first tells one cell from another.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import nn
from torch.fx import GraphModule, Node

from narfx.graph.nodes import call_targets
from narfx.passes.blocks import Block, find_blocks
from narfx.space.records import DeclaredSite

__all__ = ["CellEdges", "block_edges", "find_cells"]

_SUMS = {operator.add, operator.iadd, torch.add, torch.stack, torch.sum, sum}
_SUM_METHODS = {"add", "add_", "sum"}
_OPERATORS = (
    nn.modules.conv._ConvNd, nn.Linear, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
)  # fmt: skip
_OPERATOR_CALLS = {
    torch.conv1d, torch.conv2d, torch.conv3d, nn.functional.linear, nn.functional.max_pool2d, nn.functional.avg_pool2d,
    nn.functional.adaptive_avg_pool2d,
}  # fmt: skip


@dataclass(frozen=True)
class CellEdges:
    """A cell or a block.

    Attributes:
        name: Its module path; of a block whose modules share none, the name of the node at which it ends.
        kind: The first word of its slots' names, such as ``normal``; empty where they have several, or for a block.
        sources: For each node what its edges start from, in graph order; what is no node itself is an input.
        channels: The channels of each node, in units of those of the output.
    """

    name: str
    kind: str
    sources: Mapping[str, Sequence[str]]
    channels: Mapping[str, float]


def find_cells(
    graph_module: GraphModule, sites: Sequence[DeclaredSite], empty: Callable[[DeclaredSite], bool] = lambda site: False
) -> list[CellEdges]:
    """The cells that sites make, in graph order.

    Args:
        graph_module: A trace in which each site is one call.
        sites: Its sites that declare candidates.
        empty: Whether nothing stands at a site.
    """
    calls = call_targets(graph_module)
    node_of = {site.name: calls[site.target][site.occurrence] for site in sites}
    edges = set(node_of.values())
    cells: dict[str, list[DeclaredSite]] = {}
    for site, path in zip(sites, _cell_paths(sites), strict=True):
        cells.setdefault(path, []).append(site)
    found = []
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    for path, members in cells.items():
        sums = {site.name: _sum_of(node_of[site.name], edges) for site in members}
        nodes = sorted(set(sums.values()), key=order.__getitem__)
        sources: dict[str, list[str]] = {node.name: [] for node in nodes}
        for site in members:
            if not empty(site):
                for given in node_of[site.name].all_input_nodes:
                    sources[sums[site.name].name].append(_source(given, set(nodes), edges).name)
        kinds = {site.slot.split()[0] for site in members if site.slot}
        kept = _with_edges(sources)
        found.append(CellEdges(path, kinds.pop() if len(kinds) == 1 else "", kept, dict.fromkeys(kept, 1.0)))
    return found


def _with_edges(sources: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The nodes that have an edge, without the edges that start at a node that has none: such a node is zeros."""
    kept: dict[str, list[str]] = {}
    for name, read in sources.items():
        found = [source for source in read if source not in sources or source in kept]
        if found:
            kept[name] = found
    return kept


def _cell_paths(sites: Sequence[DeclaredSite]) -> list[str]:
    """For each site the path of its cell: up to where the paths of the sites of one slot differ first."""
    by_slot: dict[str, list[list[str]]] = {}
    for site in sites:
        by_slot.setdefault(site.slot or site.target, []).append(site.target.split("."))
    depths = [
        sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))) + 1
        for paths in by_slot.values()
        if len({tuple(path) for path in paths}) > 1
    ]
    if depths:
        return [".".join(site.target.split(".")[: min(depths)]) for site in sites]
    every = [site.target.split(".") for site in sites]
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*every, strict=False))]
    return [".".join(shared) or "the model"] * len(sites)


def _sum_of(node: Node, edges: Collection[Node]) -> Node:
    """The sum that an edge goes into: as far as only edges are added."""
    while len(node.users) == 1:
        (user,) = node.users
        if not _is_sum(user) or not all(_adds_edges(source, edges) for source in user.all_input_nodes):
            break
        node = user
    return node


def _adds_edges(node: Node, edges: Collection[Node]) -> bool:
    return node in edges or (_is_sum(node) and all(_adds_edges(source, edges) for source in node.all_input_nodes))


def _is_sum(node: Node) -> bool:
    return (node.op == "call_function" and node.target in _SUMS) or (
        node.op == "call_method" and node.target in _SUM_METHODS
    )


def _source(node: Node, nodes: Collection[Node], edges: Collection[Node]) -> Node:
    """The node of the cell that an edge reads, perhaps through a norm or an activation; else what it reads."""
    found = node
    while found not in nodes and found not in edges and len(found.all_input_nodes) == 1:
        found = found.all_input_nodes[0]
    return found if found in nodes else node


def block_edges(graph_module: GraphModule, shapes: Mapping[Node, tuple[int, ...]]) -> list[CellEdges]:
    """The residual blocks as cells: their nodes are convolutions, pools and linear layers, their output is the add.

    Norms, activations and adds inside are passed through. A block that contains another one is left out.
    """
    blocks = find_blocks(graph_module)
    smallest = [b for b in blocks if not any(other.nodes < b.nodes for other in blocks)]
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    return [
        found
        for block in sorted(smallest, key=lambda b: order[b.add])
        if (found := _block(graph_module, block, shapes, order)) is not None
    ]


def _block(
    graph_module: GraphModule, block: Block, shapes: Mapping[Node, tuple[int, ...]], order: Mapping[Node, int]
) -> CellEdges | None:
    nodes = sorted((node for node in block.nodes if _is_operator(graph_module, node)), key=order.__getitem__)
    width = shapes.get(block.add, (0,))
    if not nodes or len(width) < 2:
        return None

    def reads(node: Node) -> list[str]:
        found: list[str] = []
        for source in node.all_input_nodes:
            inside = source in block.nodes and source not in nodes
            found += reads(source) if inside else [source.name]
        return found

    channels = {node.name: shapes[node][1] / width[1] if len(shapes.get(node, ())) > 1 else 1.0 for node in nodes}
    paths = [str(node.target).split(".") for node in nodes if node.op == "call_module"]
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]
    name = ".".join(shared) or block.add.name
    return CellEdges(name, "", {node.name: reads(node) for node in nodes}, channels)


def _is_operator(graph_module: GraphModule, node: Node) -> bool:
    if node.op == "call_module":
        return any(isinstance(part, _OPERATORS) for part in graph_module.get_submodule(str(node.target)).modules())
    return node.op == "call_function" and node.target in _OPERATOR_CALLS
