"""Put a gate at every place where skips can be added.

A gate receives the tensors of all possible skips to its place and adds those that are open. What the base has on a
skip of its own, a projection most often, is called by a ``Shortcut`` at the same place in the graph, so that a closed
one is not computed; its modules keep their names too, and with them their place in the order of parameters. The
projections of new skips are inside the gate. As inserted, what is open is what the base has.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import fx, nn
from torch.fx import GraphModule, Node

from narfx.graph.nodes import free_name
from narfx.operators.dispatch import Shortcut, SkipGate
from narfx.passes.base import Pass
from narfx.passes.skips import Junction, Projection, SkipDomain
from narfx.support.seeds import derive

__all__ = ["InsertSkips"]


class InsertSkips(Pass):
    """In place. ``domain`` is what ``find_skips`` found in this graph, or in the one that it is a copy of."""

    in_place: ClassVar[bool] = True

    def __init__(self, domain: SkipDomain) -> None:
        self.domain = domain

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Insert the gates; a graph that has gates stays as it is."""
        if not self.domain.junctions or any(isinstance(module, SkipGate) for module in graph_module.modules()):
            return graph_module, False
        named = {node.name: node for node in graph_module.graph.nodes}
        self._modules = dict(graph_module.named_modules())
        home = free_name(graph_module, "skip_gates")
        graph_module.add_submodule(home, nn.Module().train(graph_module.training))
        for index, junction in enumerate(self.domain.junctions):
            gate = self._insert(graph_module, junction, named, f"{home}.gate{index}")
            named[junction.at] = gate  # what reads this place from now on reads the gate
        return graph_module, True

    def _insert(self, graph_module: GraphModule, junction: Junction, named: dict[str, Node], path: str) -> Node:
        at, like = named[junction.at], self._like(named[junction.at], graph_module.training)
        add: tuple[str, Any, bool, str, tuple[str, ...]] | None = None
        main = shortcut = at
        if junction.main is not None:
            swapped = named[junction.main] is not at.all_input_nodes[0]
            main, shortcut = reversed(at.all_input_nodes) if swapped else at.all_input_nodes
            add = (at.op, at.target, swapped, at.name, tuple(at.kwargs))
        pairs = [(candidate.skip.source, candidate.skip.target) for candidate in junction.candidates]
        sources = []
        for candidate, pair in zip(junction.candidates, pairs, strict=True):
            if candidate.skip.base:
                if candidate.branch:
                    nodes = [named[name] for name in candidate.branch]
                    shortcut = _move_branch(graph_module, nodes, pair, f"{path}_shortcut")
                sources.append(shortcut)
            else:
                sources.append(named[candidate.source])
        projections = {
            pair: _projection(candidate.projection, pair, like)
            for candidate, pair in zip(junction.candidates, pairs, strict=True)
            if candidate.projection is not None
        }
        base = [pair for candidate, pair in zip(junction.candidates, pairs, strict=True) if candidate.skip.base]
        graph_module.add_submodule(path, SkipGate(pairs, base, projections, add).train(like[1]))
        with graph_module.graph.inserting_after(at):
            gate = graph_module.graph.call_module(path, (main, *sources))
        gate.meta, gate.type = dict(at.meta), at.type
        at.replace_all_uses_with(gate, delete_user_cb=lambda user: user is not gate)
        if add is not None:
            graph_module.graph.erase_node(at)
        return gate

    def _like(self, node: Node, training: bool) -> tuple[nn.Parameter | None, bool]:
        """A parameter before a place, whose device, type and frozen state the projections share, and its mode."""
        waiting, seen = [node], {node}
        while waiting:
            node = waiting.pop(0)
            module = self._modules.get(str(node.target)) if node.op == "call_module" else None
            floats = [] if module is None else [p for p in module.parameters() if p.is_floating_point()]
            if module is not None and floats:
                return floats[0], module.training
            waiting += [source for source in node.all_input_nodes if source not in seen]
            seen.update(node.all_input_nodes)
        return None, training


def _move_branch(graph_module: GraphModule, nodes: list[Node], pair: tuple[int, int], path: str) -> Node:
    """Take the nodes of a shortcut out of the graph and into one call in the place of the first."""
    inner, kept = fx.Graph(), dict[str, nn.Module]()
    given = inner.placeholder("x")
    (entry,) = {source for node in nodes for source in node.all_input_nodes} - set(nodes)
    copies = {entry: given}
    for node in nodes:
        copies[node] = inner.node_copy(node, copies.__getitem__)
        if node.op == "call_module":
            kept[str(node.target)] = graph_module.get_submodule(str(node.target))
    inner.output(copies[nodes[-1]])
    modes = {module: module.training for own in kept.values() for module in own.modules()}
    shortcut = Shortcut(fx.GraphModule(kept, inner), pair).train(graph_module.training)
    for module, training in modes.items():
        module.training = training
    graph_module.add_submodule(path, shortcut)
    with graph_module.graph.inserting_before(nodes[0]):
        call = graph_module.graph.call_module(path, (entry,))
    call.meta, call.type = dict(nodes[-1].meta), nodes[-1].type
    nodes[-1].replace_all_uses_with(call)
    for node in reversed(nodes):
        graph_module.graph.erase_node(node)
    return call


def _projection(wanted: Projection, pair: tuple[int, int], like: tuple[nn.Parameter | None, bool]) -> nn.Module:
    """A 1x1 convolution, He-normal by its fan-in and the same in every process, and BatchNorm."""
    parameter, training = like
    conv = nn.Conv2d(wanted.in_channels, wanted.out_channels, 1, wanted.stride, bias=False, device="meta")
    conv.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(derive(0, "skip", *pair))
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / wanted.in_channels), generator=generator)
    projection = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(wanted.out_channels))).train(training)
    if parameter is not None:
        projection.to(device=parameter.device, dtype=parameter.dtype).requires_grad_(parameter.requires_grad)
    return projection
