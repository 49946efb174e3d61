"""Find residual blocks in the graph; module names are not used.

A residual add has two tensors of the network as operands. Its block is the region between the add and the node where
its branches split: the add's immediate dominator in the data-flow graph. The region is a block only if it has a single
exit, that is, no node outside reads a node inside, except the add. Blocks may nest; callers use the innermost.

A value that does not depend on the network's input (a parameter that scales a branch, a constant) is not data flow. It
counts neither as an operand of a residual add nor as a second entry of a block.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule, Node

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Block", "find_blocks", "is_residual_add"]

_ADD_FUNCTIONS = {operator.add, operator.iadd, torch.add}
_ADD_METHODS = {"add", "add_"}


@dataclass(frozen=True)
class Block:
    """A single-entry single-exit region.

    Attributes:
        entry: The node where the branches split; not in ``nodes``.
        add: The residual add, where they join.
        nodes: All nodes of the region, the add included.
    """

    entry: Node
    add: Node
    nodes: frozenset[Node]


def find_blocks(graph_module: GraphModule) -> list[Block]:
    """All residual blocks, smaller ones first, so that a nested block comes before the block around it."""
    graph = graph_module.graph
    import networkx as nx  # only this granularity needs it

    flow = nx.DiGraph()
    root = "root"
    flow.add_node(root)
    for node in graph.nodes:
        if node.op == "placeholder":
            flow.add_edge(root, node)
        flow.add_edges_from((source, node) for source in node.all_input_nodes if source in flow)
    dominator = nx.immediate_dominators(flow, root)
    order = {node: index for index, node in enumerate(graph.nodes)}
    blocks = []
    for node in graph.nodes:
        entry = dominator.get(node)
        if is_residual_add(node) and flow.in_degree(node) == 2 and isinstance(entry, Node):
            inside = _between(flow, entry, node)
            if _single_exit(inside, node):
                blocks.append(Block(entry, node, frozenset(inside)))
    return sorted(blocks, key=lambda block: (len(block.nodes), order[block.add]))


def is_residual_add(node: Node) -> bool:
    """Whether a node adds two nodes, in place or not."""
    adds = (node.op == "call_function" and node.target in _ADD_FUNCTIONS) or (
        node.op == "call_method" and node.target in _ADD_METHODS
    )
    return adds and len(node.all_input_nodes) == 2


def _between(flow: nx.DiGraph, entry: Node, exit_: Node) -> set[Node]:
    """The nodes on the paths from ``entry`` (excluded) to ``exit_`` (included); ``entry`` must dominate ``exit_``."""
    inside, waiting = {exit_}, [exit_]
    while waiting:
        for source in flow.predecessors(waiting.pop()):
            if source is not entry and source not in inside:
                inside.add(source)
                waiting.append(source)
    return inside


def _single_exit(inside: set[Node], exit_: Node) -> bool:
    return all(user in inside for node in inside if node is not exit_ for user in node.users)
