"""The rules that a lowered graph must satisfy before it is exported."""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate

from torch import nn
from torch.fx import GraphModule

from narfx.graph.unused import unused_keys

__all__ = ["verify_lowered"]


def verify_lowered(graph_module: GraphModule, unused: Collection[str] = ()) -> list[str]:
    """The rules that a graph breaks, one sentence each; an empty list for a lowered graph in eval mode.

    ``unused`` are the state-dict keys of the user's model that its graph does not use (``Traced.dropped``). Such parts
    are kept on purpose and are not reported.
    """
    problems = [
        f"{name or 'the root'} is a {type(module).__name__} of {type(module).__module__}, which an exported network "
        "must not contain: lower the network first"
        for name, module in graph_module.named_modules()
        if type(module).__module__.split(".")[0] == "narfx" and not _is_model(module)
    ]
    problems += [
        f"{name or 'the root'} is in training mode: call eval() first"
        for name, m in graph_module.named_modules()
        if m.training
    ]
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    read = {str(node.target).rpartition(".")[0] for node in graph_module.graph.nodes if node.op == "get_attr"}
    kept = _kept(graph_module, frozenset(unused))
    orphans = [
        name
        for name, module in graph_module.named_modules()
        if name and not list(module.children()) and name not in read
        if not (called | kept).intersection(accumulate(name.split("."), "{}.{}".format))
    ]
    problems += [f"{name} is not called by the graph" for name in orphans]
    problems += [
        f"{key} is not read by the graph"
        for key in sorted(_unread(graph_module).difference(unused))
        if key.rpartition(".")[0] not in orphans
    ]
    try:
        graph_module.graph.lint()
    except RuntimeError as error:
        problems.append(f"the graph is not well formed: {error}")
    return problems


def _unread(graph_module: GraphModule) -> set[str]:
    """The keys of tensors that no node uses under any of their names."""
    state, idle = graph_module.state_dict(keep_vars=True), unused_keys(graph_module)
    used = {id(value) for key, value in state.items() if key not in idle}
    return {key for key in idle if id(state[key]) not in used}


def _is_model(module: nn.Module) -> bool:
    """Whether a module is a layer of narfx's own base models, which counts as a user's module."""
    return type(module).__module__.startswith("narfx.models.")


def _kept(graph_module: GraphModule, unused: frozenset[str]) -> set[str]:
    """The modules whose whole state is unused, by name."""
    if not unused:
        return set()
    holds: dict[str, bool] = {}
    for key in graph_module.state_dict():
        for name in accumulate(key.split(".")[:-1], "{}.{}".format):
            holds[name] = holds.get(name, True) and key in unused
    return {name for name, wholly in holds.items() if wholly}
